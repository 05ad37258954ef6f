// Reconstruction error of a row and its gradient, in one pass over the data (launch.h).
#include "kernels/formulas/loss.h"
#include "kernels/formulas/softmax.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

using formulas::Divergence;
using formulas::ErrorTerm;
using formulas::SquaredError;
using Softmax = formulas::Softmax<formulas::NativeMath>;

template <class T>
struct RowError {
  using Element = T;
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
      const ErrorTerm<A> term = squared_error(row, p, t);
      total += term.value;
      l2_factor = term.factor;
    }
    if (kl_weight != A(0)) {
      add_divergence(row, r, p, t, total, l2_factor);
    } else if (gradient != nullptr) {
      const auto derivative = [l2_factor](A p_j, A t_j) { return l2_factor * (p_j - t_j); };
      row.write(gradient + r * n, derivative, p, t);
    }
    if (row.first()) loss[r] = total;
  }

  template <class Row, class Elements>
  CBQ_HD ErrorTerm<acc_t<T>> squared_error(const Row& row, const Elements& p,
                                           const Elements& t) const {
    using A = acc_t<T>;
    const A squares = row.sum([](A p_j, A t_j) { return SquaredError::square(p_j, t_j); }, p, t);
    if (l2 == L2Form::norm) return SquaredError::norm(l2_weight, squares);
    if (l2 == L2Form::sum) return SquaredError::sum(l2_weight, squares);
    const A of_target = row.sum([](A t_j) { return t_j * t_j; }, t);
    return SquaredError::sum(SquaredError::relative_weight(l2_weight, of_target, n), squares);
  }

  /// Adds the divergence to `total`, and stores the gradient of both.
  template <class Row, class Elements>
  CBQ_HD void add_divergence(const Row& row, int64_t r, const Elements& p, const Elements& t,
                             acc_t<T>& total, acc_t<T> l2_factor) const {
    using A = acc_t<T>;
    const A p_max = Softmax::largest(row, p), t_max = Softmax::largest(row, t);
    const auto p_power = row.keep([p_max](A p_j) { return Softmax::power(p_j, p_max); }, p);
    const auto t_power = row.keep([t_max](A t_j) { return Softmax::power(t_j, t_max); }, t);
    const auto same = [](A e_j) { return e_j; };
    const A p_sum = row.sum(same, p_power), t_sum = row.sum(same, t_power);
    const A p_inverse = A(1) / p_sum, t_inverse = A(1) / t_sum;
    const A shift = (p_max + math::log(p_sum)) - (t_max + math::log(t_sum));
    const auto term = [=](A e_t, A t_j, A p_j) {
      return Divergence::term(Softmax::value(e_t, t_inverse), t_j, p_j, shift);
    };
    total += kl_weight * row.sum(term, t_power, t, p);
    if (gradient == nullptr) return;
    const A weight = kl_weight;
    const auto derivative = [=](A e_p, A e_t, A p_j, A t_j) {
      const A q = Softmax::value(e_p, p_inverse), y = Softmax::value(e_t, t_inverse);
      return l2_factor * (p_j - t_j) + weight * Divergence::gradient(q, y);
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
    map_rows("row_error", prediction.device(), rows, n,
             RowError<T>{prediction.data<T>(), target.data<T>(), result.loss.data<A>(), gradient, n,
                         static_cast<A>(l2_weight), static_cast<A>(kl_weight), l2});
  });
  return result;
}

}  // namespace cbq::kernels
