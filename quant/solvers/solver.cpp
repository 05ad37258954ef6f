#include "quant/solvers/solver.h"

#include "kernels/ops.h"
#include "quant/rounding.h"

namespace cbq {

using kernels::Trans;

void LayerSolver::configure(const std::string& arguments) {
  check(arguments.empty(), "solver '", name(), "' takes no arguments, got ':", arguments, "'");
}

Registry<LayerSolver>& solvers() {
  static Registry<LayerSolver> registry("solver");
  return registry;
}

std::unique_ptr<LayerSolver> parse_solver(const std::string& text) {
  const size_t colon = text.find(':');
  std::unique_ptr<LayerSolver> solver = solvers().make(text.substr(0, colon));
  solver->configure(colon == std::string::npos ? "" : text.substr(colon + 1));
  return solver;
}

std::string canonical_solver(const std::string& text) {
  if (!solvers().has(text.substr(0, text.find(':')))) return text;
  const std::unique_ptr<LayerSolver> solver = parse_solver(text);
  const std::string arguments = solver->arguments();
  return arguments.empty() ? solver->name() : concat(solver->name(), ":", arguments);
}

void check_problem(const LayerProblem& problem) {
  const Tensor& w = problem.weight;
  const Tensor& h = problem.hessian;
  check(w.defined() && w.rank() == 2 && w.count() > 0, problem.layer,
        ": expected a weight [out, in]");
  const int64_t in = w.size(1);
  check(h.defined() && h.shape() == Shape{in, in} && h.dtype() == Dtype::f64 &&
            h.device() == Device::cpu(),
        problem.layer, ": expected H = X^T X as f64 [", in, ", ", in, "] on the host");
  check(
      !kernels::has_non_finite(h), problem.layer,
      ": the Hessian holds NaN or infinity; look at the calibration data and the model's weights");
}

Tensor nearest(const Tensor& w, const WeightGrid& grid) {
  RoundingPass pass;
  pass.w = w;
  pass.scale = grid.scale;
  pass.zero_point = grid.zero_point;
  pass.bits = grid.bits;
  pass.group = grid.group;
  pass.start = Start::nearest;
  pass.hard = true;
  return rounding_schemes().make("nearest")->forward(pass);
}

double output_error(const Tensor& a, const Tensor& b, const Tensor& hessian) {
  const auto on_host = [](const Tensor& t) {
    return kernels::cast(t, Dtype::f64).to(Device::cpu());
  };
  const Tensor e = kernels::sub(on_host(a), on_host(b));
  const Tensor he = kernels::matmul(e, Trans::no, hessian, Trans::no);
  return kernels::sum(kernels::mul(he, e)).item();
}

InputGram::InputGram(int64_t in) : sum_(Tensor::zeros({in, in}, Dtype::f64)) {}

void InputGram::add(const Tensor& x) {
  check(x.rank() == 2 && x.size(1) == sum_.size(0), "InputGram: expected [tokens, ", sum_.size(0),
        "], got ", to_string(x.shape()));
  const Tensor wide = x.dtype() == Dtype::f64 ? x : kernels::cast(x, Dtype::f32);
  const Tensor product = kernels::matmul(wide, Trans::yes, wide, Trans::no);
  kernels::add_into(sum_, kernels::cast(product, Dtype::f64).to(Device::cpu()));
  tokens_ += x.size(0);
}

}  // namespace cbq
