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

namespace {

void check_gram(const std::string& layer, const char* name, const Tensor& gram, int64_t in) {
  check(gram.defined() && gram.shape() == Shape{in, in} && gram.dtype() == Dtype::f64 &&
            gram.device() == Device::cpu(),
        layer, ": expected ", name, " as f64 [", in, ", ", in, "] on the host");
}

Tensor in_f64_on_host(const Tensor& t) { return kernels::cast(t, Dtype::f64).to(Device::cpu()); }

/// tr(A M B^T).
double trace_of(const Tensor& a, const Tensor& m, const Tensor& b) {
  return kernels::sum(kernels::mul(kernels::matmul(a, Trans::no, m, Trans::no), b)).item();
}

/// x as the products are computed.
Tensor widened(const Tensor& x) {
  return x.dtype() == Dtype::f64 ? x : kernels::cast(x, Dtype::f32);
}

void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) {
  const Tensor product = kernels::matmul(a, Trans::yes, b, Trans::no);
  kernels::add_into(sum, kernels::cast(product, Dtype::f64).to(Device::cpu()));
}

}  // namespace

void check_problem(const LayerProblem& problem) {
  const Tensor& w = problem.weight;
  const Tensor& h = problem.hessian;
  check(w.defined() && w.rank() == 2 && w.count() > 0, problem.layer,
        ": expected a weight [out, in]");
  const int64_t in = w.size(1);
  check_gram(problem.layer, "H = X^T X", h, in);
  check(
      !kernels::has_non_finite(h), problem.layer,
      ": the Hessian holds NaN or infinity; look at the calibration data and the model's weights");
  if (!problem.original) return;
  check_gram(problem.layer, "D = (X~ - X)^T X", problem.original->cross, in);
  check_gram(problem.layer, "G = (X~ - X)^T (X~ - X)", problem.original->gram, in);
  check(!kernels::has_non_finite(problem.original->cross) &&
            !kernels::has_non_finite(problem.original->gram),
        problem.layer,
        ": the inputs of the original model hold NaN or infinity; look at the calibration data and "
        "the model's weights");
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
  const Tensor e = kernels::sub(in_f64_on_host(a), in_f64_on_host(b));
  return trace_of(e, hessian, e);
}

double layer_error(const LayerProblem& problem, const Tensor& quantized) {
  const double own = output_error(problem.weight, quantized, problem.hessian);
  if (!problem.original) return own;
  const Tensor w = in_f64_on_host(problem.weight);
  const Tensor v = kernels::sub(w, in_f64_on_host(quantized));
  return own + 2.0 * trace_of(w, problem.original->cross, v) +
         trace_of(w, problem.original->gram, w);
}

InputGram::InputGram(int64_t in) : sum_(Tensor::zeros({in, in}, Dtype::f64)) {}

void InputGram::add(const Tensor& x) {
  check(x.rank() == 2 && x.size(1) == sum_.size(0), "InputGram: expected [tokens, ", sum_.size(0),
        "], got ", to_string(x.shape()));
  const Tensor wide = widened(x);
  add_product(sum_, wide, wide);
  tokens_ += x.size(0);
}

InputDifference::InputDifference(int64_t in)
    : sums_{Tensor::zeros({in, in}, Dtype::f64), Tensor::zeros({in, in}, Dtype::f64)} {}

void InputDifference::add(const Tensor& original, const Tensor& x) {
  check(x.rank() == 2 && x.size(1) == sums_.cross.size(0) && original.shape() == x.shape() &&
            original.dtype() == x.dtype(),
        "InputDifference: expected two of [tokens, ", sums_.cross.size(0), "], got ",
        to_string(original.shape()), " and ", to_string(x.shape()));
  const Tensor wide = widened(x);
  const Tensor difference = kernels::sub(widened(original), wide);
  add_product(sums_.cross, difference, wide);
  add_product(sums_.gram, difference, difference);
}

}  // namespace cbq
