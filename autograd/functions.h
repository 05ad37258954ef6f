// Differentiable functions of Vars. Each is a kernel call (kernels/ops.h) with its vector-Jacobian
// product directly under it; see autograd/var.h for how the product is recorded.
#pragma once

#include "autograd/var.h"
#include "kernels/ops.h"

namespace cbq::ag {

/// a + b: equal shapes.
Var add(const Var& a, const Var& b);
/// x [..., n] + b [n] on every row.
Var add_row(const Var& x, const Var& b);
/// row_i x_ij column_j (kernels::rescale); row and column may be undefined.
Var rescale(const Var& x, const Var& row, const Var& column);
/// a * b: equal shapes.
Var mul(const Var& a, const Var& b);
/// c x.
Var scale(const Var& x, double c);
/// a / b: equal shapes.
Var div(const Var& a, const Var& b);
/// x in another dtype; x itself if it has it already.
Var cast(const Var& x, Dtype dtype);
/// View with another shape.
Var reshape(const Var& x, Shape shape);
/// op(a) op(b) of matrices.
Var matmul(const Var& a, kernels::Trans ta, const Var& b, kernels::Trans tb);
/// x W^T + b: x [tokens, in], w [out, in], b [out] or undefined.
Var linear(const Var& x, const Var& w, const Var& b);
/// RMSNorm over the last axis (kernels::rms_norm).
Var rms_norm(const Var& x, const Var& w, double eps);
/// LayerNorm over the last axis (kernels::layer_norm); w and b may both be undefined.
Var layer_norm(const Var& x, const Var& w, const Var& b, double eps);
/// silu(gate) * up.
Var swiglu(const Var& gate, const Var& up);
/// max(x, 0).
Var relu(const Var& x);
/// GELU in its tanh form (kernels::gelu).
Var gelu(const Var& x);
/// GELU itself (kernels::exact_gelu).
Var exact_gelu(const Var& x);
/// c tanh(x / c) (kernels::soft_cap).
Var soft_cap(const Var& x, double c);
/// Rotary embedding with fixed tables (kernels::rope).
Var rope(const Var& x, const Tensor& cosine, const Tensor& sine, int64_t tokens, int64_t dim);
/// Hadamard transform of rows with a fixed matrix (kernels::hadamard).
Var hadamard(const Var& x, const Tensor& matrix, bool transposed);
/// One part of a fused projection (kernels::take_part).
Var take_part(const Var& x, int64_t parts, int64_t part, int64_t dim);
/// Neighbouring columns (kernels::take_columns).
Var take_columns(const Var& x, int64_t first, int64_t count);
/// Rows of `table` [vocabulary, width] at `ids` [n].
Var embedding(const Tensor& ids, const Var& table);

/// Causal attention with grouped queries (kernels::attention):
///   o_h = softmax(s_h + causal mask) v_g,   s_h = q_h k_g^T / sqrt(dim),
///   g = h / (heads / kv_heads).
/// q [batch * tokens, heads * dim], k and v [batch * tokens, kv_heads * dim] -> like q.
/// `scores`: ALiBi's slopes, which add slope_h * key position to s_h, or a soft cap of s_h.
/// Saves the output and one number per query and head; backward computes probabilities again.
Var attention(const Var& q, const Var& k, const Var& v, int64_t batch, int64_t heads,
              int64_t kv_heads, const kernels::AttentionScores& scores = {});

/// Mean over rows of -log softmax(logits)[target]: [1]. target i32 [rows].
Var cross_entropy(const Var& logits, const Tensor& target);
// What losses and learned parts are made of. The library itself calls only mul and scale of the
// functions below; the others serve gradcheck and the tests, and the schemes that users write.

/// Softmax over the last axis.
Var softmax(const Var& x);
/// Sum of all elements: [1].
Var sum(const Var& x);
/// mean over rows of the reconstruction error of kernels::row_error: [1]. `target` is a constant.
Var row_error(const Var& prediction, const Tensor& target, double l2_weight, kernels::L2Form l2,
              double kl_weight);

}  // namespace cbq::ag
