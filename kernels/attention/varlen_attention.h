// Causal attention over varlen rows, for inference: nothing is saved for a backward pass.
#pragma once

#include "kernels/attention/attention_scores.h"
#include "kernels/attention/varlen_rows.h"

namespace cbq::kernels {

/// o_h = softmax(cap(q_h k_g^T / sqrt(dim)) + slope_h * position(key), over the keys that the row
/// sees) v_g,  g = h / (heads / kv_heads). q [rows, heads * dim], k and v [rows, kv_heads * dim] ->
/// like q. `scores` has the slopes and the soft cap. Equal to attention over every sequence by
/// itself, up to rounding. On the CPU in f32 and f64 products of blocks of rows by OpenBLAS, spread
/// over groups and heads; elsewhere varlen_attention_rows. Throws std::invalid_argument when shapes
/// do not fit.
Tensor varlen_attention(const Tensor& q, const Tensor& k, const Tensor& v, const VarlenRows& rows,
                        int64_t heads, int64_t kv_heads, const AttentionScores& scores = {});

/// The same, one row of one head at a time, as the equation says: any dtype, both devices.
Tensor varlen_attention_rows(const Tensor& q, const Tensor& k, const Tensor& v,
                             const VarlenRows& rows, int64_t heads, int64_t kv_heads,
                             const AttentionScores& scores = {});

/// Throws std::invalid_argument, naming `op`, unless these arguments fit together.
void check_varlen_attention(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                            const VarlenRows& rows, int64_t heads, int64_t kv_heads,
                            const AttentionScores& scores);

}  // namespace cbq::kernels
