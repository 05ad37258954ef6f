// How the guard (kernels/launch/tuned_guard.h) compares the tuned kernels of a rounding scheme with
// its reference kernels.
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace cbq::detail {

/// Values are equal in every bit; gradients are sums in another order.
inline constexpr double rounding_tolerance = 1e-5;

/// "signround bf16": the name of a scheme's kernels for weights of one dtype.
std::string rounding_kernel_name(const std::string& scheme, Dtype dtype);

/// The weight and all gradients of the scheme in every start, phase and form of its variables
/// (none, dense, ranks 5 and 8), per channel and in groups, at 3 bits: the largest
/// relative_difference().
double rounding_difference(const std::string& scheme, Dtype dtype, Device device);

}  // namespace cbq::detail
