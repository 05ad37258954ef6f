// Packed integers: what a quantized checkpoint stores of a weight.
#pragma once

#include <cstdint>
#include <optional>

#include "tensor/tensor.h"

namespace cbq {

/// Codes of `bits` bits as a little-endian bit stream, each row starting on a byte boundary: code j
/// of a row occupies bits [j b, (j + 1) b) of its ceil(in b / 8) bytes.
struct PackedWeight {
  int bits = 0;
  int64_t out = 0, in = 0, group = 0;
  Tensor codes;       // u8 [out, ceil(in * bits / 8)]
  Tensor scale;       // f32 [out, groups] ([1, 1] per tensor)
  Tensor zero_point;  // u8, like scale
  /// i32 [in]: the group of each input, where they are not runs of `group` neighbours (GPTQ's
  /// act-order); undefined: input j belongs to group j / group. Whoever reads it from a file checks
  /// that its values are groups.
  Tensor group_index = {};
};

/// codes u8 [out, in] with values below 2^bits -> packed; throws std::invalid_argument on a larger
/// code.
Tensor pack_codes(const Tensor& codes, int bits);
/// The inverse; throws std::invalid_argument when the byte count does not fit.
Tensor unpack_codes(const Tensor& packed, int bits, int64_t in);

/// s (q - z) in `dtype` [out, in]: bit for bit what the fake quantizer computed.
Tensor dequantize(const PackedWeight& weight, Dtype dtype, Device device);
/// dL/ds of every scale where dL/dW^ is `dw` [out, in], for fixed codes: sum_j dw_j (q_j - z) over
/// the weights that share it; like weight.scale, on dw's device, where the weight's tensors are.
/// Throws std::invalid_argument for a weight with a group_index.
Tensor code_sums(const PackedWeight& weight, const Tensor& dw);

}  // namespace cbq
