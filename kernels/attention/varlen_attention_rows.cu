// Attention over varlen rows by its definition: a row of a head at a time.
#include "kernels/attention/row_attention.h"
#include "kernels/attention/varlen_attention.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"

namespace cbq::kernels {
namespace {

/// Call r is head r % heads of row first + r / heads.
template <class T>
struct AttendRow {
  const T* q;
  const T* k;
  const T* v;
  T* y;
  const int32_t* views;  // VarlenView of every row
  const float* slopes;   // of the heads, or null
  acc_t<T>* scores;      // [calls, longest]: what this call keeps between its two passes
  int64_t first, heads, kv_heads, dim, longest;
  acc_t<T> factor;
  double cap;  // c, or 0: none

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const int64_t i = first + r / heads, h = r % heads, g = h / (heads / kv_heads);
    const VarlenView view{views[4 * i], views[4 * i + 1], views[4 * i + 2], views[4 * i + 3]};
    const int64_t own = (i * heads + h) * dim;
    const RowAttention<T> attention{q + own,
                                    y + own,
                                    scores + r * longest,
                                    int64_t{view.prefix_count} + view.own_count,
                                    dim,
                                    factor,
                                    slopes != nullptr ? slopes + h : nullptr,
                                    cap};
    attention.attend(
        row, [&](int64_t j) { return k + (row_of(view, j) * kv_heads + g) * dim; },
        [&](int64_t j) { return v + (row_of(view, j) * kv_heads + g) * dim; });
  }

  CBQ_HD static int64_t row_of(const VarlenView& view, int64_t j) {
    return j < view.prefix_count ? view.prefix + j : view.own + j - view.prefix_count;
  }
};

// Elements of the scores that are kept at a time: 64 MiB in f32.
constexpr int64_t most_scores = int64_t{1} << 24;

}  // namespace

Tensor varlen_attention_rows(const Tensor& q, const Tensor& k, const Tensor& v,
                             const VarlenRows& rows, int64_t heads, int64_t kv_heads,
                             const AttentionScores& of_scores) {
  check_varlen_attention("varlen_attention_rows", q, k, v, rows, heads, kv_heads, of_scores);
  const Tensor& slopes = of_scores.slopes;
  const int64_t dim = q.size(1) / heads;
  const int64_t step = math::clamp<int64_t>(most_scores / (heads * rows.longest()), 1, rows.rows());
  Tensor y(q.shape(), q.dtype(), q.device());
  dispatch_float(q.dtype(), "varlen_attention_rows", [&]<class T>() {
    Tensor scores({step * heads, rows.longest()}, dtype_of<acc_t<T>>::value, q.device());
    for (int64_t first = 0; first < rows.rows(); first += step) {
      const int64_t calls = math::min(step, rows.rows() - first) * heads;
      map_rows("varlen_attention", q.device(), calls, rows.longest(),
               AttendRow<T>{q.data<T>(), k.data<T>(), v.data<T>(), y.data<T>(),
                            rows.views().data<int32_t>(),
                            slopes.defined() ? slopes.data<float>() : nullptr,
                            scores.data<acc_t<T>>(), first, heads, kv_heads, dim, rows.longest(),
                            static_cast<acc_t<T>>(1.0 / std::sqrt(static_cast<double>(dim))),
                            of_scores.cap});
    }
  });
  return y;
}

}  // namespace cbq::kernels
