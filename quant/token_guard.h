// How the guard (kernels/launch/tuned_guard.h) compares quantizers of tokens that are fused with
// the function before them with the same computed step by step.
#pragma once

#include <vector>

#include "nn/deferred.h"
#include "tensor/tensor.h"

namespace cbq::detail {

inline constexpr const char* token_kernel_name = "quantize_tokens";
/// A norm's sum in another order moves a value across a rounding boundary here and there, and a
/// code of 8 bits by one. Wrong kernels differ by about 1.
inline constexpr double token_tolerance = 5e-2;

/// A function that has a fused form: of how many operands, the first `tensors` of which are tensors
/// like x; the others are a norm's weight and bias.
struct FusedTokenFunction {
  Deferred::Function function;
  int operands, tensors;
};
/// All of them (quant/quantize_tokens.cu).
std::vector<FusedTokenFunction> fused_token_functions();

/// Values and gradients behind each function that has a fused form, in f32 and bf16: the largest
/// relative_difference().
double token_difference(Device device);

}  // namespace cbq::detail
