// GPTQ (Frantar et al. 2023): columns are rounded one after the other, and the columns behind take
// up each column's error.
//
// With H = X^T X + damping mean(diag H) I and H^-1 = U^T U (U upper triangular), for j = 0, 1, ...:
//   q_j = code of w_j,   e = (w_j - s (q_j - z)) / U_jj,   w_k -= e U_jk  for all k > j.
// Every row of W has the same H, so rows are independent. As published, columns go in blocks:
// inside a block the update is done at once, behind it as one matrix product per block.
//
// Where this differs from the authors' program:
//   - A group's grid is made from its weights as they stand when its first column is reached, with
//     all updates done. (The program leaves out those of the current block of 128 columns.)
//   - A channel that the calibration data never use (H_jj = 0) is rounded to nearest. (The program
//     sets its weights to 0.)
//   - With act_order and groups, groups stay those of the original order and their grids come from
//     the original weights ("static groups"): the format stores one scale per run of columns.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/formulas/math.h"
#include "kernels/ops.h"
#include "quant/solvers/cholesky.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

using kernels::Trans;

/// A matrix that is not positive definite gets this many times the damping, so often at most.
constexpr double more_damping = 10.0;
constexpr int damping_tries = 4;

struct Options {
  double damping = 0.01;
  bool act_order = false;
  /// Columns of a block: wide enough for the matrix product, narrow enough for the cache. It
  /// decides last bits only.
  int64_t block = 128;
};

/// One layer on its way: W in f64 with its columns in the order in which they are rounded.
class Gptq {
 public:
  Gptq(const LayerProblem& problem, const Options& options)
      : p_(problem),
        options_(options),
        out_(problem.weight.size(0)),
        in_(problem.weight.size(1)),
        order_(static_cast<size_t>(in_)) {
    std::iota(order_.begin(), order_.end(), int64_t{0});
    if (!options.act_order) return;
    const double* h = problem.hessian.data<double>();
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return h[a * in_ + a] > h[b * in_ + b]; });
  }

  LayerSolution solve();

 private:
  Tensor ordered_hessian() const;
  Tensor factor();
  void make_group_grid(int64_t group);
  template <class T>
  void round_block(int64_t first, int64_t last, const Tensor& u, const Tensor& errors);
  int64_t block_end(int64_t first) const;
  /// Groups whose grid is made on the way.
  bool grids_on_the_way() const {
    return p_.config.granularity == Granularity::per_group && !options_.act_order;
  }

  const LayerProblem& p_;
  const Options& options_;
  int64_t out_, in_;
  std::vector<int64_t> order_;  // order_[j]: the column that is rounded as number j
  Tensor work_;                 // f64 [out, in], columns in that order
  Tensor adjusted_;             // [out, in] in the weight's dtype, original order, host
  LayerSolution result_;
};

Tensor Gptq::ordered_hessian() const {
  const double* h = p_.hessian.data<double>();
  Tensor ordered({in_, in_}, Dtype::f64);
  double* o = ordered.data<double>();
  double mean = 0.0;
  for (int64_t i = 0; i < in_; ++i) {
    for (int64_t j = 0; j < in_; ++j) {
      o[i * in_ + j] = h[order_[static_cast<size_t>(i)] * in_ + order_[static_cast<size_t>(j)]];
    }
    if (o[i * in_ + i] == 0.0) o[i * in_ + i] = 1.0;  // never used: nothing to make up for
    mean += o[i * in_ + i] / static_cast<double>(in_);
  }
  for (int64_t i = 0; i < in_; ++i) o[i * in_ + i] += options_.damping * mean;
  return ordered;
}

Tensor Gptq::factor() {
  const Tensor h = ordered_hessian();
  double* values = h.data<double>();
  double mean = 0.0;
  for (int64_t i = 0; i < in_; ++i) mean += values[i * in_ + i] / static_cast<double>(in_);
  double damping = std::max(options_.damping, 1e-6);
  for (int attempt = 0;; ++attempt) {
    if (std::optional<Tensor> u = upper_factor_of_inverse(h)) return std::move(*u);
    check(attempt < damping_tries, p_.layer, ": H = X^T X is not positive definite, even with ",
          damping, " of its mean on the diagonal; take more calibration tokens than ", in_);
    const double before = attempt == 0 ? options_.damping : damping;
    damping *= more_damping;
    for (int64_t i = 0; i < in_; ++i) values[i * in_ + i] += (damping - before) * mean;
    result_.notes.push_back(concat(p_.layer, ": damping raised from ", before, " to ", damping,
                                   ", since H was not positive definite"));
  }
}

/// Grid of group `group` from the weights as they stand; its columns are not reordered.
void Gptq::make_group_grid(int64_t group) {
  const int64_t size = p_.config.group_size, groups = in_ / size;
  const Tensor part({out_, size}, Dtype::f64);
  for (int64_t i = 0; i < out_; ++i) {
    const double* from = work_.data<double>() + i * in_ + group * size;
    std::copy(from, from + size, part.data<double>() + i * size);
  }
  WeightConfig config = p_.config;
  config.granularity = Granularity::per_channel;
  config.group_size = 0;
  const Dtype dtype = result_.grid.scale.dtype();
  const WeightGrid grid = weight_grid(kernels::cast(part, dtype), config, p_.layer);
  dispatch_float(dtype, "gptq", [&]<class A>() {
    for (int64_t i = 0; i < out_; ++i) {
      result_.grid.scale.data<A>()[i * groups + group] = grid.scale.data<A>()[i];
      result_.grid.zero_point.data<A>()[i * groups + group] = grid.zero_point.data<A>()[i];
    }
  });
}

/// Blocks end at the borders of groups, so that a group's grid sees every update.
int64_t Gptq::block_end(int64_t first) const {
  int64_t last = std::min(in_, first + options_.block);
  if (grids_on_the_way()) {
    const int64_t size = p_.config.group_size;
    last = std::min(last, (first / size + 1) * size);
  }
  return last;
}

/// Rounds the columns [first, last); errors [out, last - first] receives e of each.
template <class T>
void Gptq::round_block(int64_t first, int64_t last, const Tensor& u, const Tensor& errors) {
  using A = acc_t<T>;
  const double* factor = u.data<double>();
  const A largest = A(max_code(p_.config.bits));
  const A* scale = result_.grid.scale.data<A>();
  const A* zero_point = result_.grid.zero_point.data<A>();
  const bool one = p_.config.granularity == Granularity::per_tensor;
  const int64_t groups = one ? 1 : in_ / result_.grid.group;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < out_; ++i) {
    double* w = work_.data<double>() + i * in_;
    for (int64_t j = first; j < last; ++j) {
      const int64_t column = order_[static_cast<size_t>(j)];
      const int64_t g = one ? 0 : i * groups + column / result_.grid.group;
      const T stored = T(static_cast<A>(w[j]));
      const A s = scale[g], z = zero_point[g];
      const A q = math::clamp(math::round_even(A(stored) / s) + z, A(0), largest);
      adjusted_.data<T>()[i * in_ + column] = stored;
      const double e = (w[j] - static_cast<double>(T(s * (q - z)))) / factor[j * in_ + j];
      errors.data<double>()[i * (last - first) + j - first] = e;
#pragma omp simd
      for (int64_t k = j + 1; k < last; ++k) w[k] -= e * factor[j * in_ + k];
    }
  }
}

LayerSolution Gptq::solve() {
  const Tensor w = kernels::cast(p_.weight, Dtype::f64).to(Device::cpu());
  work_ = Tensor({out_, in_}, Dtype::f64);
  for (int64_t i = 0; i < out_; ++i) {
    for (int64_t j = 0; j < in_; ++j) {
      work_.data<double>()[i * in_ + j] =
          w.data<double>()[i * in_ + order_[static_cast<size_t>(j)]];
    }
  }
  const WeightGrid start = weight_grid(p_.weight.to(Device::cpu()), p_.config, p_.layer);
  result_.grid = start;
  if (grids_on_the_way()) {
    result_.grid.scale = start.scale.clone();
    result_.grid.zero_point = start.zero_point.clone();
  }
  adjusted_ = Tensor({out_, in_}, p_.weight.dtype());
  const Tensor u = factor();
  for (int64_t first = 0; first < in_;) {
    const int64_t last = block_end(first), width = last - first;
    if (grids_on_the_way() && first % p_.config.group_size == 0) {
      make_group_grid(first / p_.config.group_size);
    }
    const Tensor errors({out_, width}, Dtype::f64);
    dispatch_float(p_.weight.dtype(), "gptq",
                   [&]<class T>() { round_block<T>(first, last, u, errors); });
    if (last < in_) {
      kernels::gemm_strided({errors, 0, 0, width, out_, width}, Trans::no,
                            {u, first * in_ + last, 0, in_, width, in_ - last}, Trans::no,
                            {work_, last, 0, in_, out_, in_ - last}, 1, -1.0, 1.0);
    }
    first = last;
  }
  result_.weight = adjusted_.to(p_.weight.device());
  result_.error = output_error(w, nearest(adjusted_, result_.grid), p_.hessian);
  result_.nearest_error = output_error(w, nearest(p_.weight.to(Device::cpu()), start), p_.hessian);
  result_.grid.scale = result_.grid.scale.to(p_.weight.device());
  result_.grid.zero_point = result_.grid.zero_point.to(p_.weight.device());
  return std::move(result_);
}

class GptqSolver : public LayerSolver {
 public:
  std::string name() const override { return "gptq"; }
  std::string help() const override {
    return "column by column, the rest makes up for each rounding (Frantar et al. 2023); options: "
           "damping=0.01 (of the mean of H's diagonal), act_order (or desc_act: largest H_jj "
           "first), block=128 (columns per matrix product)";
  }
  void configure(const std::string& arguments) override {
    for (const std::string& argument : split_arguments(arguments)) {
      if (argument == "act_order" || argument == "desc_act") {
        options_.act_order = true;
      } else if (argument.starts_with(damping)) {
        options_.damping = number(argument, damping, 0.0, 1e3);
      } else if (argument.starts_with(block)) {
        const double columns = number(argument, block, 1.0, 1e6);
        check(columns == std::floor(columns), "solver 'gptq': ", argument,
              ": expected a whole number of columns");
        options_.block = static_cast<int64_t>(columns);
      } else {
        throw std::invalid_argument(
            message_of("solver 'gptq': unknown '", argument,
                       "'; known: damping=NUMBER, act_order, block=COLUMNS"));
      }
    }
  }
  std::string arguments() const override {
    return concat(damping, nlohmann::json(options_.damping).dump(), ",", block, options_.block,
                  options_.act_order ? ",act_order" : "");
  }
  LayerSolution solve(const LayerProblem& problem) const override {
    check_problem(problem);
    return Gptq(problem, options_).solve();
  }

 private:
  static constexpr const char* damping = "damping=";
  static constexpr const char* block = "block=";

  static double number(const std::string& argument, const std::string& key, double low,
                       double high) {
    const std::string text = argument.substr(key.size());
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    check(!text.empty() && *end == '\0' && value >= low && value <= high,
          "solver 'gptq': ", argument, ": expected a number from ", low, " to ", high);
    return value;
  }

  Options options_;
};

[[maybe_unused]] const bool registered =
    solvers().add("gptq", [] { return std::make_unique<GptqSolver>(); });

}  // namespace
}  // namespace cbq
