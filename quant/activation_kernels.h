// Fake quantization of activations on tensors; quant/activation_quantizer.h is the differentiable
// part.
#pragma once

#include "quant/config.h"
#include "tensor/tensor.h"

namespace cbq {

/// Ranges that all rows share, one per run of elements; without them (undefined) every row takes
/// its own.
struct ActivationRange {
  Tensor low, high;  // [runs] each, f32 (f64 for f64 activations)
  Tensor ends;  // i32 [runs]: run k has the elements ends[k - 1] to ends[k]; undefined: one run
};

/// x^ = s (clamp(round(x/s) + z, 0, 2^b - 1) - z) with s, z of `config` from the range [low, high]
/// of the element's run (zero included) and s = e^a s0; clip = a [1], f32 (f64 for f64
/// activations). The last of range.ends is the width of x.
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
