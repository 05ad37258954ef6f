// Integer codes that are learned on their grid: the number that is rounded moves, the grid may move
// beside it.
#pragma once

#include "quant/bit_packed.h"

namespace cbq {

/// A weight on its grid whose codes are the rounding of real numbers u [out, in]:
///   W^ = s (q - z),  q = clamp(round(u), 0, 2^b - 1).
/// u is in codes and knows nothing of s, so that a scale moves whole rows of W^ and u moves single
/// weights. (A weight that is trained itself, u = w / s + z, gives s hardly any gradient once w
/// lies on the grid.)
struct LearnedCodes {
  int bits = 0;
  int64_t group = 0;  // inputs that share a scale; [1, 1] scales: all weights do
  Tensor u;           // [out, in], like scale
  Tensor scale;       // f32 [out, groups] (f64 where truth is wanted)
  Tensor zero_point;  // u8, like scale
};

/// u = q: the codes of a packed weight, in the dtype of its scales and on their device. From the
/// middle of its cell a code changes only where many gradients agree. (A start at the place of the
/// original weight in the cell was worse: docs/experiments.md, "Polish".)
Tensor real_codes(const PackedWeight& weight);
/// W^ [out, in] in `dtype`; where u holds integers, bit for bit dequantize() of them.
Tensor dequantize(const LearnedCodes& codes, Dtype dtype);

struct CodeGradients {
  Tensor u;      // like codes.u
  Tensor scale;  // like codes.scale
};
/// For dw = dL/dW^ [out, in], rounding passed straight through:
///   dL/du = s dw, or 0 where u lies at or beyond an end of the codes and descent would lead
///   further out;  dL/ds = sum dw (q - z).
CodeGradients code_gradients(const LearnedCodes& codes, const Tensor& dw);

/// The codes, packed.
PackedWeight packed(const LearnedCodes& codes);

}  // namespace cbq
