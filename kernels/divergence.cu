// Divergence of two rows of logits: rows that are read once (launch.h).
#include "kernels/divergence.h"
#include "kernels/formulas/loss.h"
#include "kernels/formulas/softmax.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

using Softmax = formulas::Softmax<formulas::NativeMath>;

template <class T>
struct RowDivergence {
  using Element = T;
  const T* logits;
  const T* reference;
  acc_t<T>* kl;
  acc_t<T>* agrees;
  int64_t n;
  bool vectorizes() const { return aligned(logits, reference); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto p = row.read(logits + r * n), t = row.read(reference + r * n);
    const A p_max = Softmax::largest(row, p), t_max = Softmax::largest(row, t);
    const double p_sum = sum_of_powers(row, p, p_max), t_sum = sum_of_powers(row, t, t_max);
    const double shift = (static_cast<double>(p_max) + math::log(p_sum)) -
                         (static_cast<double>(t_max) + math::log(t_sum));
    const auto term = [=](A t_j, A p_j) {
      const auto power = static_cast<double>(Softmax::power(t_j, t_max));
      return formulas::Divergence::term(power, static_cast<double>(t_j), static_cast<double>(p_j),
                                        shift);
    };
    const double total = row.sum(term, t, p);
    const auto shared = [=](A t_j, A p_j) { return t_j == t_max && p_j == p_max ? A(1) : A(0); };
    const A both = row.max(shared, t, p);
    if (row.first()) {
      kl[r] = A(total / t_sum);
      agrees[r] = both;
    }
  }

  template <class Row, class Elements>
  CBQ_HD static double sum_of_powers(const Row& row, const Elements& x, acc_t<T> largest) {
    return row.sum(
        [largest](acc_t<T> x_j) { return static_cast<double>(Softmax::power(x_j, largest)); }, x);
  }
};

}  // namespace

DivergenceResult divergence(const Tensor& logits, const Tensor& reference) {
  check_same("divergence", logits, reference);
  check(logits.rank() == 2 && logits.size(1) > 0, "divergence: expected logits [rows, classes], ",
        "got ", logits.shape());
  const int64_t rows = logits.size(0), n = logits.size(1);
  DivergenceResult result;
  dispatch_float(logits.dtype(), "divergence", [&]<class T>() {
    using A = acc_t<T>;
    result.kl = Tensor({rows}, dtype_of<A>::value, logits.device());
    result.agrees = Tensor({rows}, dtype_of<A>::value, logits.device());
    map_rows("divergence", logits.device(), rows, n,
             RowDivergence<T>{logits.data<T>(), reference.data<T>(), result.kl.data<A>(),
                              result.agrees.data<A>(), n});
  });
  return result;
}

}  // namespace cbq::kernels
