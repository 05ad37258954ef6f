// Layer normalization: one row, several workers (launch.h).
#include "kernels/launch.h"
#include "kernels/ops.h"
#include "kernels/rows.h"

namespace cbq::kernels {
namespace {

// The mean is subtracted before squaring: E[x^2] - E[x]^2 would cancel where the mean is large.
template <class T>
struct LayerNorm {
  const T* x;
  const T* w;  // nullptr: ones
  const T* b;  // nullptr: zeros
  T* y;
  acc_t<T>* mean;
  acc_t<T>* inverse_deviation;
  int64_t n;
  acc_t<T> eps;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    T* out = y + r * n;
    A total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) total += A(in[j]);
    const A center = row.sum(total) / A(n);
#pragma omp simd reduction(+ : squares)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A d = A(in[j]) - center;
      squares += d * d;
    }
    const A inverse = A(1) / math::sqrt(row.sum(squares) / A(n) + eps);
    if (row.lane() == 0) {
      mean[r] = center;
      inverse_deviation[r] = inverse;
    }
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A normalized = (A(in[j]) - center) * inverse;
      out[j] = T(w != nullptr ? normalized * A(w[j]) + A(b[j]) : normalized);
    }
  }
};

// With x^ = (x - mean) * inverse and g = w dy: dx = inverse * (g - mean(g) - x^ * mean(g x^)).
template <class T>
struct LayerNormBackward {
  const T* x;
  const T* w;  // nullptr: ones
  const acc_t<T>* mean;
  const acc_t<T>* inverse_deviation;
  const T* dy;
  T* dx;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    const T* d = dy + r * n;
    T* out = dx + r * n;
    const A center = mean[r], inverse = inverse_deviation[r];
    A total = 0, dot = 0;
#pragma omp simd reduction(+ : total, dot)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A g = w != nullptr ? A(w[j]) * A(d[j]) : A(d[j]);
      total += g;
      dot += g * ((A(in[j]) - center) * inverse);
    }
    const A mean_g = row.sum(total) / A(n), mean_gx = row.sum(dot) / A(n);
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A g = w != nullptr ? A(w[j]) * A(d[j]) : A(d[j]);
      out[j] = T(inverse * (g - mean_g - (A(in[j]) - center) * inverse * mean_gx));
    }
  }
};

// Rows of dy * x^, to be summed over rows for dw.
template <class T>
struct LayerNormWeightTerm {
  const T* x;
  const acc_t<T>* mean;
  const acc_t<T>* inverse_deviation;
  const T* dy;
  T* term;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const A center = mean[r], inverse = inverse_deviation[r];
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      term[r * n + j] = T(A(dy[r * n + j]) * ((A(x[r * n + j]) - center) * inverse));
    }
  }
};

Dtype accumulation_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

void check_row_parameter(const char* op, const char* what, const Tensor& p, const Tensor& x) {
  check_shape(op, what, p, {x.size(-1)});
  check(p.dtype() == x.dtype(), op, ": ", what, " is ", name_of(p.dtype()), ", x is ",
        name_of(x.dtype()));
}

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

}  // namespace

LayerNormResult layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, double eps) {
  const auto [rows, n] = row_shape("layer_norm", x);
  check(w.defined() == b.defined(), "layer_norm: weight and bias come together or not at all");
  if (w.defined()) {
    check_row_parameter("layer_norm", "weight", w, x);
    check_row_parameter("layer_norm", "bias", b, x);
  }
  const Dtype wide = accumulation_dtype(x.dtype());
  const LayerNormResult result{Tensor(x.shape(), x.dtype(), x.device()),
                               Tensor({rows}, wide, x.device()), Tensor({rows}, wide, x.device())};
  dispatch_float(x.dtype(), "layer_norm", [&]<class T>() {
    using A = acc_t<T>;
    map_rows("layer_norm", x.device(), rows, n,
             LayerNorm<T>{x.data<T>(), data_or_null<T>(w), data_or_null<T>(b), result.y.data<T>(),
                          result.mean.data<A>(), result.inverse_deviation.data<A>(), n,
                          static_cast<A>(eps)});
  });
  return result;
}

std::pair<Tensor, Tensor> layer_norm_backward(const Tensor& x, const Tensor& w, const Tensor& mean,
                                              const Tensor& inverse_deviation, const Tensor& dy,
                                              bool want_dw) {
  constexpr const char* op = "layer_norm_backward";
  check_same(op, x, dy);
  const auto [rows, n] = row_shape(op, x);
  if (w.defined()) check_row_parameter(op, "weight", w, x);
  check_shape(op, "mean", mean, {rows});
  check_same(op, mean, inverse_deviation);
  check(mean.dtype() == accumulation_dtype(x.dtype()), op, ": x is ", name_of(x.dtype()),
        ", mean is ", name_of(mean.dtype()));
  Tensor dx(x.shape(), x.dtype(), x.device()), dw;
  dispatch_float(x.dtype(), op, [&]<class T>() {
    const acc_t<T>* center = mean.data<acc_t<T>>();
    const acc_t<T>* inverse = inverse_deviation.data<acc_t<T>>();
    map_rows(op, x.device(), rows, n,
             LayerNormBackward<T>{x.data<T>(), data_or_null<T>(w), center, inverse, dy.data<T>(),
                                  dx.data<T>(), n});
    if (!want_dw) return;
    Tensor term({rows, n}, x.dtype(), x.device());
    map_rows(op, x.device(), rows, n,
             LayerNormWeightTerm<T>{x.data<T>(), center, inverse, dy.data<T>(), term.data<T>(), n});
    dw = sum_rows(term);
  });
  return {dx, dw};
}

}  // namespace cbq::kernels
