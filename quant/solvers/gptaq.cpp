// GPTAQ (Li et al. 2025, "GPTQv2"): the layer's output on its quantized inputs X is to be that of
// the original weight on the original inputs X~, so the columns behind also take up what column j's
// input differs.
//
// With D = (X~ - X)^T X and U of GPTQ,
//   P_j = alpha D_j,>j (H_>j,>j)^-1,   P = alpha triu(D U^T, 1) U:
// w_j P_j is what the inputs behind j can make of w_j (x~_j - x_j), by least squares, since
// (H_>j,>j)^-1 = U_>j^T U_>j. w_j is the weight as it stands when its turn comes
// (quant/solvers/column_by_column.h has the loop).
//
// alpha = 1 is that solution; the authors' program takes 0.25 everywhere. Where this differs from
// their program, apart from what gptq.cpp says:
//   - Behind a block of columns their program multiplies P with the rounded weights of the block,
//     inside it with the weights before rounding. Here it is the latter everywhere, so the width of
//     the blocks decides last bits only.
//   - An input that is 0 on the quantized stream alone keeps its weights and its part of D. (In the
//     program it has neither.)
#include <nlohmann/json.hpp>

#include "kernels/ops.h"
#include "quant/solvers/column_by_column.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

using kernels::Trans;

/// P from U and D [in, in].
Tensor carry_of(const Tensor& cross, double alpha, const Tensor& upper,
                const std::vector<int64_t>& order) {
  const auto in = static_cast<int64_t>(order.size());
  const Tensor ordered({in, in}, Dtype::f64);
  for (int64_t i = 0; i < in; ++i) {
    const double* row = cross.data<double>() + order[static_cast<size_t>(i)] * in;
    for (int64_t j = 0; j < in; ++j) {
      ordered.data<double>()[i * in + j] = alpha * row[order[static_cast<size_t>(j)]];
    }
  }
  const Tensor product = kernels::matmul(ordered, Trans::no, upper, Trans::yes);
  for (int64_t i = 0; i < in; ++i) {
    std::fill_n(product.data<double>() + i * in, i + 1, 0.0);
  }
  return kernels::matmul(product, Trans::no, upper, Trans::no);
}

class GptaqSolver : public LayerSolver {
 public:
  std::string name() const override { return "gptaq"; }
  std::string help() const override {
    return concat(
        "GPTQ towards the output of the original layer on its original inputs (Li et al. 2025); "
        "options: alpha=0.25 (weight of what the inputs differ), ",
        column_options_help);
  }
  void configure(const std::string& arguments) override {
    for (const std::string& argument : split_arguments(arguments)) {
      if (argument.starts_with(alpha_key)) {
        alpha_ = number_option(name(), argument, alpha_key, 0.0, 1.0);
      } else {
        check(options_.read(name(), argument), "solver 'gptaq': unknown '", argument,
              "'; known: alpha=NUMBER, damping=NUMBER, act_order, block=COLUMNS");
      }
    }
  }
  std::string arguments() const override {
    return concat(alpha_key, nlohmann::json(alpha_).dump(), ",", options_.text());
  }
  bool wants_original_inputs() const override { return true; }
  LayerSolution solve(const LayerProblem& problem) const override {
    check(problem.original.has_value(), problem.layer,
          ": solver 'gptaq' needs the inputs of the original model (LayerProblem::original)");
    return solve_column_by_column(problem, options_,
                                  [&](const Tensor& upper, const std::vector<int64_t>& order) {
                                    return carry_of(problem.original->cross, alpha_, upper, order);
                                  });
  }

 private:
  static constexpr const char* alpha_key = "alpha=";

  double alpha_ = 0.25;
  ColumnOptions options_;
};

[[maybe_unused]] const bool registered =
    solvers().add("gptaq", [] { return std::make_unique<GptaqSolver>(); });

}  // namespace
}  // namespace cbq
