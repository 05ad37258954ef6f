// Arithmetic on tensors: no gradients here (autograd/functions.h), no model (nn/).
//
// Every function runs on the device of its arguments, takes any floating-point dtype unless it says
// otherwise, accumulates in f32 (f64 for f64), and throws std::invalid_argument with its name when
// shapes, dtypes or devices do not fit. "Rows" of a tensor are all axes but the last, flattened.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/attention/attention_scores.h"
#include "tensor/tensor.h"

namespace cbq::kernels {

// ---- elementwise ------------------------------------------------------------------------------

/// t_i = value.
void fill(const Tensor& t, double value);
/// Copy converted to `dtype` (or the tensor itself if it has it already).
Tensor cast(const Tensor& x, Dtype dtype);
/// y = a + b; a - b; a * b; a / b, elementwise, equal shapes.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
/// acc += x, in place.
void add_into(const Tensor& acc, const Tensor& x);
/// y = c x.
Tensor scale(const Tensor& x, double c);
/// y = x + b, b [n] added to every row of x [..., n].
Tensor add_row(const Tensor& x, const Tensor& b);
/// y = x * s, s [n] times every row of x [..., n].
Tensor mul_row(const Tensor& x, const Tensor& s);
/// y_ij = row_i x_ij column_j: x [rows, n], row [rows] and column [n] in the accumulation dtype, or
/// undefined (ones).
Tensor rescale(const Tensor& x, const Tensor& row, const Tensor& column);
/// d row_i = sum_j dy_ij x_ij column_j, d column_j = sum_i dy_ij x_ij row_i, in the accumulation
/// dtype; undefined unless wanted. (dx = rescale(dy, row, column).)
struct RescaleGradient {
  Tensor row, column;
};
RescaleGradient rescale_backward(const Tensor& x, const Tensor& row, const Tensor& column,
                                 const Tensor& dy, bool want_row, bool want_column);
/// y = a / (1 + e^-a) * b: SwiGLU's product of silu(gate) and up.
Tensor swiglu(const Tensor& gate, const Tensor& up);
/// {d gate, d up} of swiglu for the output gradient dy.
std::pair<Tensor, Tensor> swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy);
/// y = max(x, 0); NaN stays.
Tensor relu(const Tensor& x);
/// dx = dy where y > 0, else 0: y is relu's output.
Tensor relu_backward(const Tensor& y, const Tensor& dy);
/// y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2: the tanh form of GELU (Hendrycks & Gimpel
/// 2016), as BLOOM and GPT-2 use it.
Tensor gelu(const Tensor& x);
/// dx = dy * d gelu(x) / dx.
Tensor gelu_backward(const Tensor& x, const Tensor& dy);
/// y = x (1 + erf(x / sqrt(2))) / 2: GELU itself, as GPT-NeoX uses it.
Tensor exact_gelu(const Tensor& x);
/// dx = dy * d exact_gelu(x) / dx.
Tensor exact_gelu_backward(const Tensor& x, const Tensor& dy);

/// y = c tanh(x / c), c > 0: numbers that stay between -c and c.
Tensor soft_cap(const Tensor& x, double c);
/// dx = dy (1 - (y / c)^2): y is soft_cap's output.
Tensor soft_cap_backward(const Tensor& y, const Tensor& dy, double c);

// ---- rowwise ----------------------------------------------------------------------------------

/// y = x * rsqrt(mean(x^2) + eps) * w, w [n] (Zhang & Sennrich 2019); the normalized value is
/// rounded to the dtype before the product with w, as transformers' LLaMA does. `inverse_rms`
/// [rows] in the accumulation dtype is kept for backward.
struct RmsNormResult {
  Tensor y;
  Tensor inverse_rms;
};
RmsNormResult rms_norm(const Tensor& x, const Tensor& w, double eps);
/// {dx, dw}; dw is undefined unless wanted.
std::pair<Tensor, Tensor> rms_norm_backward(const Tensor& x, const Tensor& w,
                                            const Tensor& inverse_rms, const Tensor& dy,
                                            bool want_dw);
/// y = (x - mean) / sqrt(variance + eps) * w + b, w and b [n] or both undefined (ones and zeros);
/// mean and biased variance of every row (Ba et al. 2016). `mean` and `inverse_deviation` [rows] in
/// the accumulation dtype are kept for backward.
struct LayerNormResult {
  Tensor y;
  Tensor mean;
  Tensor inverse_deviation;
};
LayerNormResult layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, double eps);
/// {dx, dw}; dw is undefined unless wanted. (db is column_sums(dy).)
std::pair<Tensor, Tensor> layer_norm_backward(const Tensor& x, const Tensor& w, const Tensor& mean,
                                              const Tensor& inverse_deviation, const Tensor& dy,
                                              bool want_dw);
/// y_j = e^(x_j - max) / sum: softmax of every row.
Tensor softmax(const Tensor& x);
/// dx = y * (dy - sum_j dy_j y_j).
Tensor softmax_backward(const Tensor& y, const Tensor& dy);
/// nll_r = -log softmax(logits_r)[target_r]: f32 (f64 for f64) [rows]; target i32 [rows].
/// Throws on the CPU for a target outside [0, classes).
Tensor cross_entropy(const Tensor& logits, const Tensor& target);
/// d logits = (softmax - onehot(target)) * dnll_r.
Tensor cross_entropy_backward(const Tensor& logits, const Tensor& target, const Tensor& dnll);

// ---- reductions -------------------------------------------------------------------------------

/// Sum of all elements, [1] in the accumulation dtype (f32, f64 for f64); fixed order.
Tensor sum(const Tensor& x);
/// Column sums of x [..., n] -> [n] in x's dtype; fixed order.
Tensor column_sums(const Tensor& x);
/// Minimum and maximum of every row, both [rows], x's dtype; NaN for a row that holds one.
std::pair<Tensor, Tensor> min_max_rows(const Tensor& x);
/// max |x| over all rows for every column of x [..., n] -> [n] f32 (calibration statistics); NaN
/// for a column that holds one.
Tensor abs_max_columns(const Tensor& x);
/// True if any element is NaN or infinite (reads the answer back: synchronizes).
bool has_non_finite(const Tensor& x);

// ---- moving data ------------------------------------------------------------------------------

/// One part of fused projections: x [rows, groups * parts * dim] -> [rows, groups * dim], element
/// (g, j) from (g, part, j). BLOOM fuses queries, keys and values as [head][q, k, v][dim].
Tensor take_part(const Tensor& x, int64_t parts, int64_t part, int64_t dim);
/// The vjp of take_part: y [rows, groups * dim] to its places, 0 elsewhere.
Tensor put_part(const Tensor& y, int64_t parts, int64_t part, int64_t dim);
/// Neighbouring columns: x [rows, n] -> [rows, count], columns `first` to first + count - 1. Phi-3
/// fuses queries, keys and values one behind the other.
Tensor take_columns(const Tensor& x, int64_t first, int64_t count);
/// The vjp of take_columns: y [rows, count] to its place in [rows, width], 0 elsewhere.
Tensor put_columns(const Tensor& y, int64_t first, int64_t width);
/// [rows, cols] -> [cols, rows].
Tensor transpose(const Tensor& x);
/// y_r = table[ids_r]: ids i32 [n], table [vocabulary, width] -> [n, width].
Tensor embedding(const Tensor& ids, const Tensor& table);
/// d table: sums dy rows of equal id in the order of the tokens.
Tensor embedding_backward(const Tensor& ids, const Tensor& dy, int64_t vocabulary);
/// Rows `indices[r]` of x [n, ...] gathered: indices on the host.
Tensor gather_rows(const Tensor& x, const std::vector<int64_t>& indices);

/// Rotary position embedding in transformers' half-split layout. x [batch * tokens, heads * dim];
/// cosine, sine [>= tokens, pairs] f32, 2 pairs <= dim. (a, b) -> (a cos - b sin, b cos + a sin)
/// for a = x_j, b = x_{j + pairs}, j < pairs; the elements of a head behind the first 2 pairs stay.
/// `inverse` turns back (the vjp). Su et al. 2021.
Tensor rope(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t tokens, int64_t dim,
            bool inverse);

/// Hadamard transform of every row of x [..., n]. With H = `matrix` [m, m] f32 of entries +-1,
/// H H^T = m I, and S Sylvester's matrix of order p = n / m, which must be a power of two:
///   y = (H (x) S) x / sqrt(n),  or (H^T (x) S) x / sqrt(n), which is the inverse and the vjp.
/// (x) is the Kronecker product: element a p + j of a row belongs to row a of H and row j of S.
/// n (m + log2 p) additions per row (Fino & Algazi 1976 for the factor S).
Tensor hadamard(const Tensor& x, const Tensor& matrix, bool transposed);

// ---- matrix products (OpenBLAS, cuBLASLt) -------------------------------------------------------
// On the CPU the number of threads does not change a bit of the result (kernels/matmul/gemm.cpp).

enum class Trans { no, yes };
/// op(a) op(b): a [m, k] (or [k, m] with Trans::yes), b [k, n] (or [n, k]) -> [m, n].
Tensor matmul(const Tensor& a, Trans ta, const Tensor& b, Trans tb);
/// c = alpha op(a) op(b) + beta c.
void gemm(const Tensor& a, Trans ta, const Tensor& b, Trans tb, const Tensor& c, double alpha,
          double beta);
/// Equally spaced matrices [rows, cols] inside a tensor: element (r, c) of matrix i is element
/// offset + i * stride + r * row_stride + c of it. The heads of [tokens, heads * dim] are such.
struct Matrices {
  const Tensor& tensor;
  int64_t offset, stride, row_stride;
  int64_t rows, cols;
};
/// c_i = alpha op(a_i) op(b_i) + beta c_i for every i < batch. Of half-precision a and b, c may be
/// f32. Throws where matrices leave their tensor, or where those of c overlap.
void gemm_strided(const Matrices& a, Trans ta, const Matrices& b, Trans tb, const Matrices& c,
                  int64_t batch, double alpha, double beta);

// ---- attention ----------------------------------------------------------------------------------

/// How rows and columns of queries [batch * tokens, heads * dim] and of keys and values
/// [batch * tokens, kv_heads * dim] divide; heads / kv_heads query heads share a key-value head.
struct AttentionHeads {
  int64_t batch = 1, heads = 1, kv_heads = 1;
};
/// What attention works on at a time: so many queries of so many key-value heads. 0: chosen for the
/// device, so that the scores of a tile take at most 16 MiB (32 MiB for backward, with their
/// gradients) where one head and 16 queries do. Other numbers rule out kernels of their own.
struct AttentionTiles {
  int64_t queries = 0, kv_heads = 0;
};
/// Causal attention with grouped queries (Vaswani et al. 2017; Ainslie et al. 2023):
///   o_h = softmax(s_h) v_g,  s_h = cap(q_h k_g^T / sqrt(dim)) + slope_h * key position,
///   cap(s) = c tanh(s / c), or s,  causal mask,  g = h / (heads / kv_heads).
/// `scores` has c and the slopes; slope_h * position is rounded to the dtype first, as
/// transformers' BLOOM does. o is like q; `log_sum` [batch * heads, tokens] =
/// log sum_j e^(s_hj), in the accumulation dtype, is kept for backward. Scores exist for one tile
/// of queries at a time; for bf16 on GPUs, in registers only (docs/design.md).
struct AttentionResult {
  Tensor o;
  Tensor log_sum;
};
AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionHeads& heads, const AttentionScores& scores = {},
                          const AttentionTiles& tiles = {});
/// Gradients of attention for the output gradient d_o, like q, k and v. With p = e^(s - log_sum):
///   dv = p^T d_o,  ds = p * (d_o v^T - rowsum(d_o * o)) * cap',  dq = ds k / sqrt(dim),
///   dk = ds^T q / sqrt(dim),  cap' = 1 - tanh^2, or 1,  dk and dv summed over a group's queries in
///   the accumulation dtype.
struct AttentionGradient {
  Tensor dq, dk, dv;
};
AttentionGradient attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const AttentionResult& forward, const Tensor& d_o,
                                     const AttentionHeads& heads,
                                     const AttentionScores& scores = {},
                                     const AttentionTiles& tiles = {});

// ---- random numbers (Philox by counter: equal on both devices) ----------------------------------

/// Element i = mean + deviation * N(0, 1), Box-Muller on philox(seed, stream, 2i), (.., 2i + 1).
void fill_normal(const Tensor& t, double mean, double deviation, uint64_t seed, uint64_t stream);
void fill_uniform(const Tensor& t, double low, double high, uint64_t seed, uint64_t stream);

// ---- reconstruction error -----------------------------------------------------------------------

/// Per-row error between a prediction and a fixed target, both [..., n]:
///   l2_weight * (sum_j (p_j - t_j)^2 in the form `l2`)
///   + kl_weight * KL(softmax(t) || softmax(p))  over the row.
/// `loss` [rows] and, if wanted, d(sum of loss)/d p, in one pass over the data.
/// `relative` gives rows of all sizes the same weight; rows whose target is zero weigh nothing.
enum class L2Form {
  sum,       // sum_j d_j^2, d = p - t
  norm,      // its root
  relative,  // n sum_j d_j^2 / sum_j t_j^2
};
struct RowErrorResult {
  Tensor loss;
  Tensor gradient;
};
RowErrorResult row_error(const Tensor& prediction, const Tensor& target, double l2_weight,
                         L2Form l2, double kl_weight, bool want_gradient);

// ---- optimizers ---------------------------------------------------------------------------------

// Steps of many variables in one launch (a further one behind every 64). What changes from step to
// step is read from device memory, `now` f64, so that a launch that was captured means the step at
// hand when it is replayed.

/// Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019):
///   m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
///   p -= rate * (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay * p).
/// p, m, v, g f32 of equal shape; t counts from 1.
struct AdamSettings {
  double rate = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0.0;
  /// {rate factor, 1 / (1 - b1^t), 1 / (1 - b2^t)}: what changes from step to step.
  std::array<double, 3> at_step(double factor, int64_t t) const;
};
/// One variable of adam_steps: its rate and corrections (AdamSettings::at_step) are read from
/// now[at ...], the rest from its settings. References: only for the call.
struct AdamVariable {
  const Tensor& p;
  const Tensor& g;
  const Tensor& m;
  const Tensor& v;
  const AdamSettings& settings;
  int64_t at;
};
void adam_steps(const std::vector<AdamVariable>& variables, const Tensor& now);
/// One variable of sign_sgd_steps, p -= rate * sign(g), which reads its rate at now[at].
struct SignVariable {
  const Tensor& p;
  const Tensor& g;
  int64_t at;
};
void sign_sgd_steps(const std::vector<SignVariable>& variables, const Tensor& now);
/// y = values, f64. They travel as arguments of the launch: neither side waits for the other, and
/// the host's copy may change at once.
void write_values(const Tensor& y, const std::vector<double>& values);
/// Sum of squares of all elements, on the host (gradient clipping).
double sum_of_squares(const Tensor& x);

}  // namespace cbq::kernels
