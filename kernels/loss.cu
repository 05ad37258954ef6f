// Reconstruction error of a row and its gradient, in one pass over the data.
#include "kernels/launch.h"
#include "kernels/ops.h"
#include "kernels/rows.h"

namespace cbq::kernels {
namespace {

// With z = log sum e^p, q = softmax(p), and t the target with y = softmax(t):
//   KL(y || q) = sum_j y_j (t_j - z_t - p_j + z_p),    dKL/dp = q - y.
//   L2 = sum_j d_j^2, dL2/dp = 2 d;    its root: d / ||d||  (0 at d = 0), d = p - t.
template <class T>
struct RowError {
  const T* prediction;
  const T* target;
  acc_t<T>* loss;
  T* gradient;  // may be null
  int64_t n;
  acc_t<T> l2_weight, kl_weight;
  bool l2_norm;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* p = prediction + r * n;
    const T* t = target + r * n;
    A total = 0, l2_factor = 0;
    if (l2_weight != A(0)) {
      A squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        const A d = A(p[j]) - A(t[j]);
        squares += d * d;
      }
      squares = row.sum(squares);
      const A root = math::sqrt(squares);
      total += l2_weight * (l2_norm ? root : squares);
      l2_factor = l2_weight * (l2_norm ? (root > A(0) ? A(1) / root : A(0)) : A(2));
    }
    A p_max = 0, p_inverse = 0, t_max = 0, t_inverse = 0;
    if (kl_weight != A(0)) {
      p_max = row_max(row, p, n);
      t_max = row_max(row, t, n);
      const A p_sum = row_sum_exp(row, p, n, p_max), t_sum = row_sum_exp(row, t, n, t_max);
      p_inverse = A(1) / p_sum;
      t_inverse = A(1) / t_sum;
      const A shift = (p_max + math::log(p_sum)) - (t_max + math::log(t_sum));
      A kl = 0;
#pragma omp simd reduction(+ : kl)
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        kl += math::exp(A(t[j]) - t_max) * t_inverse * (A(t[j]) - A(p[j]) + shift);
      }
      total += kl_weight * row.sum(kl);
    }
    if (row.lane() == 0) loss[r] = total;
    if (gradient == nullptr) return;
    T* g = gradient + r * n;
    if (kl_weight == A(0)) {
#pragma omp simd
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        g[j] = T(l2_factor * (A(p[j]) - A(t[j])));
      }
      return;
    }
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A q = math::exp(A(p[j]) - p_max) * p_inverse;
      const A y = math::exp(A(t[j]) - t_max) * t_inverse;
      g[j] = T(l2_factor * (A(p[j]) - A(t[j])) + kl_weight * (q - y));
    }
  }
};

}  // namespace

RowErrorResult row_error(const Tensor& prediction, const Tensor& target, double l2_weight,
                         bool l2_norm, double kl_weight, bool want_gradient) {
  check_same("row_error", prediction, target);
  const auto [rows, n] = row_shape("row_error", prediction);
  RowErrorResult result;
  dispatch_float(prediction.dtype(), "row_error", [&]<class T>() {
    using A = acc_t<T>;
    result.loss = Tensor({rows}, dtype_of<A>::value, prediction.device());
    T* gradient = nullptr;
    if (want_gradient) {
      result.gradient = Tensor(prediction.shape(), prediction.dtype(), prediction.device());
      gradient = result.gradient.data<T>();
    }
    map_rows("row_error", prediction.device(), rows, n,
             RowError<T>{prediction.data<T>(), target.data<T>(), result.loss.data<A>(), gradient, n,
                         static_cast<A>(l2_weight), static_cast<A>(kl_weight), l2_norm});
  });
  return result;
}

}  // namespace cbq::kernels
