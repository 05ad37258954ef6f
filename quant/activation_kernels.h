// Fake quantization of activations on tensors; quant/activation_quantizer.h is the differentiable
// part.
#pragma once

#include "quant/config.h"
#include "tensor/tensor.h"

namespace cbq {

/// A range that all rows share; without one (undefined) every row takes its own.
struct ActivationRange {
  Tensor low, high;  // [1] each, f32 (f64 for f64 activations)
};

/// x^ = s (clamp(round(x/s) + z, 0, 2^b - 1) - z) with s, z of `config` from the range [low, high]
/// (zero included) and s = e^a s0; clip = a [1], f32 (f64 for f64 activations).
Tensor quantize_activation(const Tensor& x, const Tensor& clip, const ActivationRange& range,
                           const ActivationConfig& config);
/// {dx, da}: dx = dx^ inside the clip range, else 0; da = sum dx^ dx^/ds s.
std::pair<Tensor, Tensor> quantize_activation_backward(const Tensor& x, const Tensor& clip,
                                                       const ActivationRange& range,
                                                       const ActivationConfig& config,
                                                       const Tensor& dy);
/// Smallest and largest element of x.
ActivationRange range_of(const Tensor& x);

}  // namespace cbq
