// Where bytes live and where functors run.
#pragma once

#include <string>

namespace cbq {

struct Device {
  enum class Kind { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  static Device cpu() { return {}; }
  static Device cuda(int index = 0) { return {Kind::cuda, index}; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool operator==(const Device&) const = default;
};

/// "cpu" or "cuda:0".
std::string name_of(Device device);

/// Parses "cpu", "cuda", "cuda:N" or "auto" (CUDA where it can be used, else the CPU), and makes a
/// CUDA device the calling thread's. Throws std::invalid_argument for anything else,
/// std::runtime_error where CUDA is asked for and cannot be had: it says what is missing.
Device device_from_name(const std::string& name);

/// Devices that CUDA can use; 0 in a build without CUDA and on a machine without a GPU.
int cuda_device_count();

/// Waits until all work queued on `device` is done. No-op on the CPU.
void synchronize(Device device);

}  // namespace cbq
