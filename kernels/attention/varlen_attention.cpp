// Attention over varlen rows on the CPU: blocks of query rows, products inside wider
// matrices (f32_product.h, OpenBLAS).
#include "kernels/attention/varlen_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/formulas/activation.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/parallel_errors.h"
#include "kernels/matmul/blas.h"
#include "kernels/matmul/f32_product.h"
#include "tensor/runtime/device_profile.h"

namespace cbq::kernels {
namespace {

// Query rows that share their products: the scores of a block stay in the second-level cache for
// usual lengths, and of a long sequence little more than the seen half is computed.
constexpr int64_t block_rows = 256;

int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }

/// A matrix inside a wider one.
template <class T>
struct Window {
  T* data;
  int64_t stride;
};

// c = alpha a op(b) + beta c: a [m, k], b [n, k] if `transposed`, else [k, n].
template <class T>
void product(int64_t m, int64_t n, int64_t k, double alpha, Window<const T> a, Window<const T> b,
             bool transposed, double beta, Window<T> c) {
  if (m == 0 || n == 0 || k == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (f32_product_takes(m, n, k, transposed)) {
      return f32_product({false, transposed, m, n, k, static_cast<float>(alpha), a.data, a.stride,
                          b.data, b.stride, static_cast<float>(beta), c.data, c.stride});
    }
  }
  blas::gemm(false, transposed, m, n, k, alpha, a.data, a.stride, b.data, b.stride, beta, c.data,
             c.stride);
}

/// One group of one head. Rows are counted from the group's first.
template <class T>
struct HeadOfGroup {
  const T *q, *k, *v;
  T* y;
  int64_t q_stride, kv_stride, dim;
  double factor;
  T slope;
  double cap;  // c, or 0: none

  Window<const T> queries(int64_t row) const { return {q + row * q_stride, q_stride}; }
  Window<const T> keys(int64_t row) const { return {k + row * kv_stride, kv_stride}; }
  Window<const T> values(int64_t row) const { return {v + row * kv_stride, kv_stride}; }
  Window<T> results(int64_t row) const { return {y + row * q_stride, q_stride}; }
};

/// softmax(cap(x_j) + slope * j) over the first `seen` entries of x; zeros in the other ones up to
/// `count`. Loops run over whole vectors: x has room for them.
template <class T>
void softmax_of_seen(T* x, int64_t seen, int64_t count, T slope, double cap) {
  const int64_t padded = whole_vectors(seen);
  if (cap > 0.0) {
    const formulas::SoftCap of{cap};
#pragma omp simd
    for (int64_t j = 0; j < seen; ++j) x[j] = of.value(x[j]);
  }
  std::fill(x + seen, x + padded, T(-INFINITY));
  T largest = -INFINITY;
  if (slope != T(0)) {
#pragma omp simd
    for (int64_t j = 0; j < padded; ++j) x[j] += slope * T(static_cast<int32_t>(j));
  }
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < padded; ++j) largest = x[j] > largest ? x[j] : largest;
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < padded; ++j) {
    x[j] = math::exp(x[j] - largest);
    total += x[j];
  }
  const T inverse = T(1) / total;
#pragma omp simd
  for (int64_t j = 0; j < padded; ++j) x[j] *= inverse;
  if (count > padded) std::fill(x + padded, x + count, T(0));
}

/// Rows [begin, end) of a part that begins at row `own` and lies behind `prefix` rows.
struct Piece {
  int64_t own, begin, end;
};

/// All rows of the pieces, which follow one another, against the prefix in one product, then every
/// piece against its own rows.
template <class T>
void attend_block(const HeadOfGroup<T>& h, int64_t prefix, const std::vector<Piece>& pieces,
                  T* scores) {
  const int64_t first = pieces.front().begin, rows = pieces.back().end - first;
  int64_t longest = 0;
  for (const Piece& p : pieces) longest = std::max(longest, p.end - p.own);
  const int64_t stride = whole_vectors(prefix + longest);
  const auto at = [&](const Piece& p) { return scores + (p.begin - first) * stride; };
  product<T>(rows, prefix, h.dim, h.factor, h.queries(first), h.keys(0), true, 0.0,
             {scores, stride});
  for (const Piece& p : pieces) {
    const int64_t keys = p.end - p.own;
    product<T>(p.end - p.begin, keys, h.dim, h.factor, h.queries(p.begin), h.keys(p.own), true, 0.0,
               {at(p) + prefix, stride});
    for (int64_t i = p.begin; i < p.end; ++i) {
      softmax_of_seen(scores + (i - first) * stride, prefix + i - p.own + 1, prefix + keys, h.slope,
                      h.cap);
    }
  }
  product<T>(rows, h.dim, prefix, 1.0, {scores, stride}, h.values(0), false, 0.0, h.results(first));
  for (const Piece& p : pieces) {
    product<T>(p.end - p.begin, h.dim, p.end - p.own, 1.0, {at(p) + prefix, stride},
               h.values(p.own), false, prefix > 0 ? 1.0 : 0.0, h.results(p.begin));
  }
}

/// The parts' rows, cut into blocks.
template <class T>
void attend_parts(const HeadOfGroup<T>& h, int64_t prefix, const std::vector<int64_t>& parts,
                  T* scores) {
  std::vector<Piece> block;
  int64_t rows = 0, own = prefix;
  for (const int64_t part : parts) {
    for (int64_t begin = own; begin < own + part;) {
      const int64_t end = std::min(own + part, begin + block_rows - rows);
      block.push_back({own, begin, end});
      rows += end - begin;
      begin = end;
      if (rows < block_rows) continue;
      attend_block(h, prefix, block, scores);
      block.clear();
      rows = 0;
    }
    own += part;
  }
  if (!block.empty()) attend_block(h, prefix, block, scores);
}

template <class T>
void attend_on_host(const Tensor& q, const Tensor& k, const Tensor& v, const VarlenRows& rows,
                    int64_t heads, int64_t kv_heads, const AttentionScores& of_scores,
                    const Tensor& y) {
  const Tensor& slopes = of_scores.slopes;
  const int64_t dim = q.size(1) / heads;
  const auto calls = static_cast<int64_t>(rows.groups().size()) * heads;
  const int64_t room = std::min(block_rows, rows.rows()) * whole_vectors(rows.longest());
  blas::load();  // may reduce the number of threads, so it comes before their buffers
  const Tensor buffers({omp_get_max_threads(), room}, q.dtype());
  ParallelErrors errors;
#pragma omp parallel for schedule(dynamic) if (calls > 1)
  for (int64_t call = 0; call < calls; ++call) {
    errors.guard([&] {
      T* const scores = buffers.data<T>() + omp_get_thread_num() * room;
      const auto g = static_cast<size_t>(call / heads);
      const int64_t head = call % heads, at = rows.begins()[g];
      const int64_t kv = (at * kv_heads + head / (heads / kv_heads)) * dim;
      const int64_t own = (at * heads + head) * dim;
      const HeadOfGroup<T> h{q.data<T>() + own,
                             k.data<T>() + kv,
                             v.data<T>() + kv,
                             y.data<T>() + own,
                             q.size(1),
                             k.size(1),
                             dim,
                             1.0 / std::sqrt(static_cast<double>(dim)),
                             slopes.defined() ? T(slopes.data<float>()[head]) : T(0),
                             of_scores.cap};
      const VarlenGroup& group = rows.groups()[g];
      // The prefix is a part of its own that lies behind nothing.
      if (group.prefix > 0) attend_parts(h, 0, {group.prefix}, scores);
      attend_parts(h, group.prefix, group.branches, scores);
    });
  }
  errors.rethrow();
}

}  // namespace

void check_varlen_attention(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                            const VarlenRows& rows, int64_t heads, int64_t kv_heads,
                            const AttentionScores& scores) {
  scores.check_cap(op);
  const Tensor& slopes = scores.slopes;
  check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, op, ": ", heads,
        " query heads cannot share ", kv_heads, " key-value heads");
  check(q.rank() == 2 && k.rank() == 2 && k.shape() == v.shape() && q.size(0) == rows.rows() &&
            k.size(0) == rows.rows() && q.size(1) % heads == 0 && q.size(1) > 0 &&
            k.size(1) == q.size(1) / heads * kv_heads,
        op, ": q ", q.shape(), ", k ", k.shape(), ", v ", v.shape(), " for ", rows.rows(),
        " rows, ", heads, " heads, ", kv_heads, " for keys");
  check(q.dtype() == k.dtype() && q.dtype() == v.dtype() && q.device() == k.device() &&
            q.device() == v.device() && q.device() == rows.views().device(),
        op, ": dtypes or devices of q, k, v and rows differ");
  check(!slopes.defined() || (slopes.shape() == Shape{heads} && slopes.dtype() == Dtype::f32), op,
        ": ", heads, " heads need as many f32 slopes");
  if (slopes.defined()) check_device(op, "slopes", slopes, q.device());
}

Tensor varlen_attention(const Tensor& q, const Tensor& k, const Tensor& v, const VarlenRows& rows,
                        int64_t heads, int64_t kv_heads, const AttentionScores& scores) {
  const bool full = q.dtype() == Dtype::f32 || q.dtype() == Dtype::f64;
  if (!(q.device() == Device::cpu()) || !full) {
    return varlen_attention_rows(q, k, v, rows, heads, kv_heads, scores);
  }
  check_varlen_attention("varlen_attention", q, k, v, rows, heads, kv_heads, scores);
  const OpTimer timer("varlen_attention", q.device());
  Tensor y(q.shape(), q.dtype(), q.device());
  if (q.dtype() == Dtype::f64) {
    attend_on_host<double>(q, k, v, rows, heads, kv_heads, scores, y);
  } else {
    attend_on_host<float>(q, k, v, rows, heads, kv_heads, scores, y);
  }
  return y;
}

}  // namespace cbq::kernels
