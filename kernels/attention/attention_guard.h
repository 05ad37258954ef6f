// How the guard (kernels/launch/tuned_guard.h) compares fused attention with its reference kernel.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace cbq::tuned {

/// Largest difference that two roundings to bf16 of P, dS and the results explain.
inline constexpr double attention_tolerance = 1e-2;

/// Attention and its gradients in bf16, with grouped heads of `dim` and ALiBi, 2 x 150 tokens,
/// against the reference kernel in f32: the largest relative_difference() of o, log_sum, dq, dk,
/// dv.
double attention_difference(int64_t dim, Device device);

}  // namespace cbq::tuned
