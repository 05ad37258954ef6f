#include "autograd/gradcheck.h"

#include <cmath>

#include "autograd/functions.h"
#include "autograd/worst_error.h"

namespace cbq {
namespace {

double weighted_sum(const Tensor& y, const Tensor& weights) {
  const std::vector<double> a = y.to_vector<double>(), b = weights.to_vector<double>();
  double total = 0.0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

}  // namespace

GradcheckResult gradcheck(const std::function<Var(const std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, double step, double tolerance) {
  std::vector<Var> leaves;
  for (const Tensor& input : inputs) {
    check(input.dtype() == Dtype::f64, "gradcheck: inputs are f64, got ", input.dtype());
    leaves.emplace_back(input.clone(), true);
  }
  Tensor weights;
  {
    Tape tape;
    const Var y = f(leaves);
    weights = Tensor(y.shape(), y.dtype(), y.device());
    kernels::fill_uniform(weights, -1.0, 1.0, 1234, 0);
    tape.backward(y, weights.clone());
  }
  GradcheckResult result;
  WorstError worst;
  for (size_t i = 0; i < leaves.size(); ++i) {
    const std::vector<double> original = inputs[i].to_vector<double>();
    const bool flowed = leaves[i].grad().defined();
    const std::vector<double> analytic =
        flowed ? leaves[i].grad().to_vector<double>() : std::vector<double>(original.size(), 0.0);
    for (size_t j = 0; j < original.size(); ++j) {
      double side[2];
      for (int k = 0; k < 2; ++k) {
        std::vector<double> moved = original;
        moved[j] += k == 0 ? step : -step;
        std::vector<Var> probe = leaves;
        probe[i] = Var(Tensor::from(moved, inputs[i].shape(), Dtype::f64, inputs[i].device()));
        NoGrad none;
        side[k] = weighted_sum(f(probe).value(), weights);
      }
      const double numeric = (side[0] - side[1]) / (2.0 * step);
      const double error = std::abs(analytic[j] - numeric) / std::max(1.0, std::abs(numeric));
      if (worst.add(error)) {
        result.message =
            concat("input ", i, " element ", j, ": analytic ", analytic[j], ", numeric ", numeric);
      }
    }
  }
  result.worst = worst.value();
  result.passed = result.worst <= tolerance;
  return result;
}

}  // namespace cbq
