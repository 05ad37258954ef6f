// GPTQ (Frantar et al. 2023): columns are rounded one after the other, and the columns behind take
// up each column's error (quant/solvers/column_by_column.h, without P).
//
// Where this differs from the authors' program:
//   - A group's grid is made from its weights as they stand when its first column is reached, with
//     all updates done. (The program leaves out those of the current block of 128 columns.)
//   - A channel that the calibration data never use (H_jj = 0) is rounded to nearest. (The program
//     sets its weights to 0.)
//   - With act_order and groups, groups stay those of the original order and their grids come from
//     the original weights ("static groups"): the format stores one scale per run of columns.
#include "quant/solvers/column_by_column.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

class GptqSolver : public LayerSolver {
 public:
  std::string name() const override { return "gptq"; }
  std::string help() const override {
    return concat(
        "column by column, the rest makes up for each rounding (Frantar et al. 2023); options: ",
        column_options_help);
  }
  void configure(const std::string& arguments) override {
    for (const std::string& argument : split_arguments(arguments)) {
      check(options_.read(name(), argument), "solver 'gptq': unknown '", argument,
            "'; known: damping=NUMBER, act_order, block=COLUMNS");
    }
  }
  std::string arguments() const override { return options_.text(); }
  LayerSolution solve(const LayerProblem& problem) const override {
    return solve_column_by_column(problem, options_);
  }

 private:
  ColumnOptions options_;
};

[[maybe_unused]] const bool registered =
    solvers().add("gptq", [] { return std::make_unique<GptqSolver>(); });

}  // namespace
}  // namespace cbq
