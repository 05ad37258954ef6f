// Root mean square and layer normalization (kernels/formulas/norm.h): rows that are read once.
#include "kernels/formulas/norm.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

template <class T>
struct RmsNorm {
  using Element = T;
  using Formula = formulas::RmsNorm<T>;
  const T* x;
  const T* w;
  T* y;
  acc_t<T>* inverse_rms;
  int64_t n;
  acc_t<T> eps;
  bool vectorizes() const { return aligned(x, w, y); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto in = row.read(x + r * n);
    const auto of = Formula::measure(row, in, n, eps);
    if (row.first()) inverse_rms[r] = of.inverse;
    const auto value = [of](A x_j, A w_j) { return Formula::value(of, x_j, w_j); };
    row.write(y + r * n, value, in, row.uncached(w));
  }
};

template <class T>
struct RmsNormBackward {
  using Element = T;
  using Formula = formulas::RmsNorm<T>;
  const T* x;
  const T* w;
  const acc_t<T>* inverse_rms;
  const T* dy;
  T* dx;
  int64_t n;
  bool vectorizes() const { return aligned(x, w, dy, dx); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto in = row.read(x + r * n), g = row.read(dy + r * n);
    const auto weight = row.uncached(w);
    const typename Formula::Statistics of{inverse_rms[r]};
    const auto mean = Formula::means(row, of, n, g, in, weight);
    const auto gradient = [of, mean](A g_j, A x_j, A w_j) {
      return Formula::gradient(of, mean, g_j, x_j, w_j);
    };
    row.write(dx + r * n, gradient, g, in, weight);
  }
};

template <class T>
struct LayerNorm {
  using Element = T;
  using Formula = formulas::LayerNorm<T>;
  const T* x;
  const T* w;  // nullptr: ones
  const T* b;  // nullptr: zeros
  T* y;
  acc_t<T>* mean;
  acc_t<T>* inverse_deviation;
  int64_t n;
  acc_t<T> eps;
  bool vectorizes() const { return aligned(x, w, b, y); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto in = row.read(x + r * n);
    const auto of = Formula::measure(row, in, n, eps);
    if (row.first()) {
      mean[r] = of.mean;
      inverse_deviation[r] = of.inverse;
    }
    const bool weighted = w != nullptr;
    const auto value = [of, weighted](A x_j, A w_j, A b_j) {
      return weighted ? Formula::value(of, x_j, w_j, b_j) : Formula::value(of, x_j);
    };
    row.write(y + r * n, value, in, row.uncached_or(w, A(1)), row.uncached_or(b, A(0)));
  }
};

template <class T>
struct LayerNormBackward {
  using Element = T;
  using Formula = formulas::LayerNorm<T>;
  const T* x;
  const T* w;  // nullptr: ones
  const acc_t<T>* mean;
  const acc_t<T>* inverse_deviation;
  const T* dy;
  T* dx;
  int64_t n;
  bool vectorizes() const { return aligned(x, w, dy, dx); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto in = row.read(x + r * n), d = row.read(dy + r * n);
    const typename Formula::Statistics of{mean[r], inverse_deviation[r]};
    const auto weight = row.uncached_or(w, A(1));
    const auto means = Formula::means(row, of, n, d, in, weight);
    const auto gradient = [of, means](A d_j, A x_j, A w_j) {
      return Formula::gradient(of, means, d_j, x_j, w_j);
    };
    row.write(dx + r * n, gradient, d, in, weight);
  }
};

// Rows of dy * x^, to be summed over rows for dw.
template <class T, template <class> class Norm>
struct WeightTerm {
  using Element = T;
  using Formula = Norm<T>;
  const T* x;
  const acc_t<T>* mean;  // of a layer norm
  const acc_t<T>* inverse;
  const T* dy;
  T* term;
  int64_t n;
  bool vectorizes() const { return aligned(x, dy, term); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    typename Formula::Statistics of;
    of.inverse = inverse[r];
    if constexpr (std::is_same_v<Formula, formulas::LayerNorm<T>>) of.mean = mean[r];
    const auto product = [of](A d_j, A x_j) { return Formula::weight_gradient(of, d_j, x_j); };
    row.write(term + r * n, product, row.read(dy + r * n), row.read(x + r * n));
  }
};

/// dw = sum over rows of dy * x^.
template <class T, template <class> class Norm>
Tensor weight_gradient(const char* op, const Tensor& x, const acc_t<T>* mean,
                       const acc_t<T>* inverse, const Tensor& dy) {
  const auto [rows, n] = row_shape(op, x);
  const Tensor term({rows, n}, x.dtype(), x.device());
  map_rows(op, x.device(), rows, n,
           WeightTerm<T, Norm>{x.data<T>(), mean, inverse, dy.data<T>(), term.data<T>(), n});
  return column_sums(term);
}

void check_row_parameter(const char* op, const char* what, const Tensor& p, const Tensor& x) {
  check_shape(op, what, p, {x.size(-1)});
  check(p.dtype() == x.dtype(), op, ": ", what, " is ", p.dtype(), ", x is ", x.dtype());
  check_device(op, what, p, x.device());
}

/// What forward kept for backward, one number per row.
void check_statistic(const char* op, const char* what, const Tensor& s, const Tensor& x) {
  check_shape(op, what, s, {row_shape(op, x).rows});
  check(s.dtype() == accumulation_dtype(x.dtype()), op, ": x is ", x.dtype(), ", ", what, " is ",
        s.dtype());
  check_device(op, what, s, x.device());
}

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

}  // namespace

RmsNormResult rms_norm(const Tensor& x, const Tensor& w, double eps) {
  const auto [rows, n] = row_shape("rms_norm", x);
  check_row_parameter("rms_norm", "weight", w, x);
  const RmsNormResult result{Tensor(x.shape(), x.dtype(), x.device()),
                             Tensor({rows}, accumulation_dtype(x.dtype()), x.device())};
  dispatch_float(x.dtype(), "rms_norm", [&]<class T>() {
    map_rows("rms_norm", x.device(), rows, n,
             RmsNorm<T>{x.data<T>(), w.data<T>(), result.y.data<T>(),
                        result.inverse_rms.data<acc_t<T>>(), n, static_cast<acc_t<T>>(eps)});
  });
  return result;
}

std::pair<Tensor, Tensor> rms_norm_backward(const Tensor& x, const Tensor& w,
                                            const Tensor& inverse_rms, const Tensor& dy,
                                            bool want_dw) {
  constexpr const char* op = "rms_norm_backward";
  check_same(op, x, dy);
  const auto [rows, n] = row_shape(op, x);
  check_row_parameter(op, "weight", w, x);
  check_statistic(op, "inverse_rms", inverse_rms, x);
  Tensor dx(x.shape(), x.dtype(), x.device()), dw;
  dispatch_float(x.dtype(), op, [&]<class T>() {
    const acc_t<T>* inverse = inverse_rms.data<acc_t<T>>();
    map_rows(op, x.device(), rows, n,
             RmsNormBackward<T>{x.data<T>(), w.data<T>(), inverse, dy.data<T>(), dx.data<T>(), n});
    if (want_dw) dw = weight_gradient<T, formulas::RmsNorm>(op, x, nullptr, inverse, dy);
  });
  return {dx, dw};
}

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
  check_statistic(op, "mean", mean, x);
  check_same(op, mean, inverse_deviation);
  Tensor dx(x.shape(), x.dtype(), x.device()), dw;
  dispatch_float(x.dtype(), op, [&]<class T>() {
    const acc_t<T>* center = mean.data<acc_t<T>>();
    const acc_t<T>* inverse = inverse_deviation.data<acc_t<T>>();
    map_rows(op, x.device(), rows, n,
             LayerNormBackward<T>{x.data<T>(), data_or_null<T>(w), center, inverse, dy.data<T>(),
                                  dx.data<T>(), n});
    if (want_dw) dw = weight_gradient<T, formulas::LayerNorm>(op, x, center, inverse, dy);
  });
  return {dx, dw};
}

}  // namespace cbq::kernels
