// A tuned kernel runs on a device only if its results agree there with those of its reference
// kernel. The comparison happens once per process and device, at the kernel's first use, on an
// input that takes milliseconds. Where the two differ, the reference kernel runs, and a line on
// stderr says so. `cbq check-device` compares all of them and prints the table.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq::tuned {

/// A tuned kernel, or several that one name stands for, with a comparison on a small input.
struct GuardedKernel {
  std::string name;  // "signround bf16"
  /// Largest difference() at which the tuned kernel is used.
  double tolerance = 0.0;
  /// Runs both kernels on the device and returns the largest relative_difference() of their
  /// results. While it runs, trusted() is true, and launches() stands still.
  std::function<double(Device)> difference;
};

/// Makes a kernel known. Returns true, so that a file can call it during static initialization.
/// Throws std::invalid_argument when the name is taken.
bool guard(GuardedKernel kernel);

/// Sorted.
std::vector<std::string> guarded_kernels();

/// What a comparison found.
struct Agreement {
  std::string kernel;
  double difference = 0.0, tolerance = 0.0;
  std::string error;  // what the comparison threw, or empty

  /// False also where the difference is NaN.
  bool holds() const { return error.empty() && difference <= tolerance; }
};

/// True if the tuned kernel may run on `device`: compares it with its reference kernel unless that
/// has been done. Throws std::invalid_argument for a name that guard() never got.
bool trusted(const std::string& kernel, Device device);

/// Compares all kernels on `device` that have not been compared there, and returns what was found,
/// sorted by name.
std::vector<Agreement> compare_all(Device device);

/// Sets what was found on `device`. For tests, which make a kernel disagree.
void set_agreement(const Agreement& agreement, Device device);

/// sqrt(sum (tuned - reference)^2 / sum reference^2): the size of the error beside the size of the
/// result, both as f64 on the host. 0 for two undefined tensors or two of zeros, infinity where
/// only one is defined, shapes differ, or the reference is all zeros; NaN where either holds a NaN.
double relative_difference(const Tensor& tuned, const Tensor& reference);

}  // namespace cbq::tuned
