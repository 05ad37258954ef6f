// Attention of new tokens over keys and values that are kept from earlier ones: generating a text
// then costs one token of work per token.
#pragma once

#include "kernels/attention/attention_scores.h"

namespace cbq::kernels {

/// Writes x [batch * tokens, n] into rows [past, past + tokens) of every sequence of `cache`
/// [batch * capacity, n]. Throws std::invalid_argument when shapes do not fit.
void append_rows(const Tensor& cache, const Tensor& x, int64_t batch, int64_t past);

/// Row t of sequence s, at position p = past + t:
///   o_h = softmax_j(cap(q_h k_g,j^T / sqrt(dim)) + slope_h j) v_g,   j = 0 .. p,
///   g = h / (heads / kv_heads).
/// q [batch * tokens, heads * dim]; keys and values [batch * capacity, kv_heads * dim], of which
/// rows [0, past + tokens) of every sequence are filled (append_rows) -> like q. `scores`
/// has the slopes and the soft cap. Equal to attention over all tokens at once, up to rounding.
/// A row's result depends on its own sequence alone, bit for bit. For inference: nothing is saved
/// for a backward pass. Any floating-point dtype, both devices. Throws std::invalid_argument when
/// shapes, dtypes or devices do not fit.
Tensor cached_attention(const Tensor& q, const Tensor& keys, const Tensor& values, int64_t batch,
                        int64_t past, int64_t heads, int64_t kv_heads,
                        const AttentionScores& scores = {});

}  // namespace cbq::kernels
