#include "quant/solvers/column_by_column.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/formulas/math.h"
#include "kernels/ops.h"
#include "quant/solvers/cholesky.h"

namespace cbq {
namespace {

using kernels::Trans;

/// A matrix that is not positive definite gets this many times the damping, so often at most.
constexpr double more_damping = 10.0;
constexpr int damping_tries = 4;

/// U and P, in the order of the columns; P is undefined where the method has none.
struct Factors {
  Tensor upper, carry;
};

/// One layer on its way: W in f64 with its columns in the order in which they are rounded.
class ColumnByColumn {
 public:
  ColumnByColumn(const LayerProblem& problem, const ColumnOptions& options,
                 const ColumnCarry& carry)
      : p_(problem),
        options_(options),
        carry_(carry),
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
  void round_block(int64_t first, int64_t last, const Factors& f, const Tensor& errors,
                   const Tensor& reached);
  void update_behind(int64_t first, int64_t last, const Factors& f, const Tensor& errors,
                     const Tensor& reached);
  int64_t block_end(int64_t first) const;
  /// Groups whose grid is made on the way.
  bool grids_on_the_way() const {
    return p_.config.granularity == Granularity::per_group && !options_.act_order;
  }

  const LayerProblem& p_;
  const ColumnOptions& options_;
  const ColumnCarry& carry_;
  int64_t out_, in_;
  std::vector<int64_t> order_;  // order_[j]: the column that is rounded as number j
  Tensor work_;                 // f64 [out, in], columns in that order
  Tensor adjusted_;             // [out, in] in the weight's dtype, original order, host
  LayerSolution result_;
};

Tensor ColumnByColumn::ordered_hessian() const {
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

Tensor ColumnByColumn::factor() {
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
void ColumnByColumn::make_group_grid(int64_t group) {
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
int64_t ColumnByColumn::block_end(int64_t first) const {
  int64_t last = std::min(in_, first + options_.block);
  if (grids_on_the_way()) {
    const int64_t size = p_.config.group_size;
    last = std::min(last, (first / size + 1) * size);
  }
  return last;
}

/// Rounds the columns [first, last); errors [out, last - first] receives e of each, reached (where
/// there is a P) what w was when its turn came.
template <class T>
void ColumnByColumn::round_block(int64_t first, int64_t last, const Factors& f,
                                 const Tensor& errors, const Tensor& reached) {
  using A = acc_t<T>;
  const double* factor = f.upper.data<double>();
  const double* carry = f.carry.defined() ? f.carry.data<double>() : nullptr;
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
      if (carry == nullptr) continue;
      reached.data<double>()[i * (last - first) + j - first] = w[j];
#pragma omp simd
      for (int64_t k = j + 1; k < last; ++k) w[k] += w[j] * carry[j * in_ + k];
    }
  }
}

/// What the columns [first, last) do to those behind them.
void ColumnByColumn::update_behind(int64_t first, int64_t last, const Factors& f,
                                   const Tensor& errors, const Tensor& reached) {
  if (last == in_) return;
  const auto add_product = [&](const Tensor& left, const Tensor& factor, double times) {
    kernels::gemm_strided({left, 0, 0, last - first, out_, last - first}, Trans::no,
                          {factor, first * in_ + last, 0, in_, last - first, in_ - last}, Trans::no,
                          {work_, last, 0, in_, out_, in_ - last}, 1, times, 1.0);
  };
  add_product(errors, f.upper, -1.0);
  if (f.carry.defined()) add_product(reached, f.carry, 1.0);
}

LayerSolution ColumnByColumn::solve() {
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
  Factors f{factor(), {}};
  if (carry_) f.carry = carry_(f.upper, order_);
  for (int64_t first = 0; first < in_;) {
    const int64_t last = block_end(first), width = last - first;
    if (grids_on_the_way() && first % p_.config.group_size == 0) {
      make_group_grid(first / p_.config.group_size);
    }
    const Tensor errors({out_, width}, Dtype::f64);
    const Tensor reached = carry_ ? Tensor({out_, width}, Dtype::f64) : Tensor();
    dispatch_float(p_.weight.dtype(), "solve_column_by_column",
                   [&]<class T>() { round_block<T>(first, last, f, errors, reached); });
    update_behind(first, last, f, errors, reached);
    first = last;
  }
  result_.weight = adjusted_.to(p_.weight.device());
  result_.error = layer_error(p_, nearest(adjusted_, result_.grid));
  result_.nearest_error = layer_error(p_, nearest(p_.weight.to(Device::cpu()), start));
  result_.grid.scale = result_.grid.scale.to(p_.weight.device());
  result_.grid.zero_point = result_.grid.zero_point.to(p_.weight.device());
  return std::move(result_);
}

constexpr const char* damping_key = "damping=";
constexpr const char* block_key = "block=";

}  // namespace

const char* const column_options_help =
    "damping=0.01 (of the mean of H's diagonal), act_order (or desc_act: largest H_jj first), "
    "block=128 (columns per matrix product)";

double number_option(const std::string& solver, const std::string& argument, const std::string& key,
                     double low, double high) {
  const std::string text = argument.substr(key.size());
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  check(!text.empty() && *end == '\0' && value >= low && value <= high, "solver '", solver,
        "': ", argument, ": expected a number from ", low, " to ", high);
  return value;
}

bool ColumnOptions::read(const std::string& solver, const std::string& argument) {
  if (argument == "act_order" || argument == "desc_act") {
    act_order = true;
  } else if (argument.starts_with(damping_key)) {
    damping = number_option(solver, argument, damping_key, 0.0, 1e3);
  } else if (argument.starts_with(block_key)) {
    const double columns = number_option(solver, argument, block_key, 1.0, 1e6);
    check(columns == std::floor(columns), "solver '", solver, "': ", argument,
          ": expected a whole number of columns");
    block = static_cast<int64_t>(columns);
  } else {
    return false;
  }
  return true;
}

std::string ColumnOptions::text() const {
  return concat(damping_key, nlohmann::json(damping).dump(), ",", block_key, block,
                act_order ? ",act_order" : "");
}

LayerSolution solve_column_by_column(const LayerProblem& problem, const ColumnOptions& options,
                                     const ColumnCarry& carry) {
  check_problem(problem);
  return ColumnByColumn(problem, options, carry).solve();
}

}  // namespace cbq
