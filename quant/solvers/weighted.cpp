// Scales and zero points for the inputs at hand: a weight counts as much as its input is large.
// Codes are those of rounding to nearest; the weights stay what they are.
#include "quant/solvers/solver.h"
#include "quant/solvers/weighted_grid.h"

namespace cbq {
namespace {

class WeightedSearch : public LayerSolver {
 public:
  std::string name() const override { return "weighted"; }
  std::string help() const override {
    return "grids with the least squared error weighted by the squares of the inputs, "
           "nearest rounding";
  }
  LayerSolution solve(const LayerProblem& problem) const override {
    check_problem(problem);
    const auto in = static_cast<size_t>(problem.weight.size(1));
    std::vector<double> h;
    for (size_t j = 0; j < in; ++j) h.push_back(problem.hessian.data<double>()[j * in + j]);
    LayerSolution solution;
    solution.weight = problem.weight;
    solution.grid = weighted_grid(problem.weight, h, problem.config, problem.layer);
    const auto error = [&](const WeightGrid& grid) {
      return output_error(problem.weight, nearest(problem.weight, grid), problem.hessian);
    };
    solution.error = error(solution.grid);
    solution.nearest_error = error(weight_grid(problem.weight, problem.config, problem.layer));
    return solution;
  }
};

[[maybe_unused]] const bool registered =
    solvers().add("weighted", [] { return std::make_unique<WeightedSearch>(); });

}  // namespace
}  // namespace cbq
