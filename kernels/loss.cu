// Reconstruction error of a row and its gradient, in one pass over the data (launch_rows.h).
#include "kernels/launch/launch_rows.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

// With z = log sum e^p, q = softmax(p), and t the target with y = softmax(t):
//   KL(y || q) = sum_j y_j (t_j - z_t - p_j + z_p),    dKL/dp = q - y.
//   L2 = sum_j d_j^2, dL2/dp = 2 d;    its root: d / ||d||  (0 at d = 0), d = p - t;
//   relative: both times n / ||t||^2   (0 at t = 0).
template <class T>
struct RowError {
  const T* prediction;
  const T* target;
  acc_t<T>* loss;
  T* gradient;  // may be null
  int64_t n;
  acc_t<T> l2_weight, kl_weight;
  L2Form l2;
  bool vectorizes() const { return aligned(prediction, target, gradient); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto p = row.read(prediction + r * n), t = row.read(target + r * n);
    A total = 0, l2_factor = 0;
    if (l2_weight != A(0)) {
      const A squares = row.sum([](A p_j, A t_j) { return (p_j - t_j) * (p_j - t_j); }, p, t);
      if (l2 == L2Form::norm) {
        const A root = math::sqrt(squares);
        total += l2_weight * root;
        l2_factor = l2_weight * (root > A(0) ? A(1) / root : A(0));
      } else {
        const A weight = l2 == L2Form::sum ? l2_weight : l2_weight * relative_weight(row, t);
        total += weight * squares;
        l2_factor = weight * A(2);
      }
    }
    if (kl_weight != A(0)) {
      add_divergence(row, r, p, t, total, l2_factor);
    } else if (gradient != nullptr) {
      const auto derivative = [l2_factor](A p_j, A t_j) { return l2_factor * (p_j - t_j); };
      row.write(gradient + r * n, derivative, p, t);
    }
    if (row.first()) loss[r] = total;
  }

  /// n / ||t||^2.
  template <class Row, class Elements>
  CBQ_HD acc_t<T> relative_weight(const Row& row, const Elements& t) const {
    using A = acc_t<T>;
    const A squares = row.sum([](A t_j) { return t_j * t_j; }, t);
    return squares > A(0) ? A(n) / squares : A(0);
  }

  /// Adds the divergence to `total`, and stores the gradient of both.
  template <class Row, class Elements>
  CBQ_HD void add_divergence(const Row& row, int64_t r, const Elements& p, const Elements& t,
                             acc_t<T>& total, acc_t<T> l2_factor) const {
    using A = acc_t<T>;
    const auto same = [](A x_j) { return x_j; };
    const A p_max = row.max(same, p), t_max = row.max(same, t);
    const auto p_power = row.keep([p_max](A p_j) { return device_math::exp(p_j - p_max); }, p);
    const auto t_power = row.keep([t_max](A t_j) { return device_math::exp(t_j - t_max); }, t);
    const A p_sum = row.sum(same, p_power), t_sum = row.sum(same, t_power);
    const A p_inverse = A(1) / p_sum, t_inverse = A(1) / t_sum;
    const A shift = (p_max + math::log(p_sum)) - (t_max + math::log(t_sum));
    const auto term = [=](A e_t, A t_j, A p_j) { return e_t * t_inverse * (t_j - p_j + shift); };
    total += kl_weight * row.sum(term, t_power, t, p);
    if (gradient == nullptr) return;
    const A weight = kl_weight;
    const auto derivative = [=](A e_p, A e_t, A p_j, A t_j) {
      const A q = e_p * p_inverse, y = e_t * t_inverse;
      return l2_factor * (p_j - t_j) + weight * (q - y);
    };
    row.write(gradient + r * n, derivative, p_power, t_power, p, t);
  }
};

}  // namespace

RowErrorResult row_error(const Tensor& prediction, const Tensor& target, double l2_weight,
                         L2Form l2, double kl_weight, bool want_gradient) {
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
    map_row_elements<T>(
        "row_error", prediction.device(), rows, n,
        RowError<T>{prediction.data<T>(), target.data<T>(), result.loss.data<A>(), gradient, n,
                    static_cast<A>(l2_weight), static_cast<A>(kl_weight), l2});
  });
  return result;
}

}  // namespace cbq::kernels
