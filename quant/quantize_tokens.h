// Fake quantization of tokens, in one pass with the function before it and for all layers that read
// the result; quant/activation_quantizer.h is the differentiable part.
#pragma once

#include <vector>

#include "nn/deferred.h"
#include "quant/config.h"
#include "tensor/tensor.h"

namespace cbq {

/// A quantizer with a range per token, taken from the token: config.dynamic, per_token.
struct TokenQuantizer {
  Tensor clip;  // a [1], f32 (f64 for f64 activations)
  ActivationConfig config;
};

struct QuantizedTokens {
  std::vector<Tensor> outputs;  // x^ of each quantizer, shaped like y
  // For backward, per row: {max(0, -min y), max(0, max y)}, and a norm's own numbers (1 / rms; mean
  // and 1 / deviation; else undefined).
  Tensor range, statistics;
};

/// True if quantize_tokens takes y and so many quantizers: it has a kernel for the function, no
/// parameter of a norm waits for a gradient, which nobody would compute, and on a GPU the kernels
/// agree with the computation step by step (kernels/launch/tuned_guard.h).
bool quantize_tokens_takes(const Deferred& y, size_t quantizers);

/// With y = f(x) rounded to its dtype, for each quantizer
///   x^ = s (clamp(round(y/s) + z, 0, 2^b - 1) - z),   s, z from the row's range, s = e^a s0
/// (GridRule). x [..., n]. Equals quantize_activation of f(x): on the CPU in every bit. On CUDA
/// last bits differ for three reasons: a norm's sums have another order; quant/ is compiled without
/// contraction of multiply-adds; the sigmoid of SwiGLU and GELU is computed here as on the CPU,
/// elsewhere by the hardware (kernels/formulas/device_math.h).
QuantizedTokens quantize_tokens(const Deferred& y, const std::vector<TokenQuantizer>& quantizers);

struct TokenGradients {
  Tensor x, second;           // undefined unless wanted; second: of two tensors (SwiGLU's up)
  std::vector<Tensor> clips;  // [1] each
};

/// Gradients for dx^_i = dy[i] of some of the quantizers: dL/dy is the sum, in their order and
/// rounded after each, of dx^ inside the clip range and 0 outside; da = sum dx^ dx^/ds s.
/// Deterministic. `forward` needs range and statistics alone.
TokenGradients quantize_tokens_backward(const Deferred& y,
                                        const std::vector<TokenQuantizer>& quantizers,
                                        const QuantizedTokens& forward,
                                        const std::vector<Tensor>& dy, bool want_x);

}  // namespace cbq
