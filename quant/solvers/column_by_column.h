// The loop that GPTQ and its relatives share: columns of a weight are rounded one after the other,
// and the columns behind take up what each one does to the layer's output.
//
// With H = X^T X + damping mean(diag H) I and H^-1 = U^T U (U upper triangular), for j = 0, 1, ...:
//   q_j = code of w_j,   e = (w_j - s (q_j - z)) / U_jj,   w_k += w_j P_jk - e U_jk  for all k > j.
// P is the method's (none: 0). Every row of W has the same H, so rows are independent. Columns go
// in blocks: inside a block the update is done at once, behind it as matrix products per block.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quant/solvers/solver.h"

namespace cbq {

/// What stands behind the ':' of every solver that uses the loop.
struct ColumnOptions {
  double damping = 0.01;
  /// Columns with the largest H_jj first.
  bool act_order = false;
  /// Columns of a block: wide enough for the matrix product, narrow enough for the cache. It
  /// decides last bits only.
  int64_t block = 128;

  /// Takes over one argument; false if it is none of these. Throws std::invalid_argument, naming
  /// the solver, for a value that cannot be.
  bool read(const std::string& solver, const std::string& argument);
  /// "damping=0.01,block=128", with ",act_order" where it is on.
  std::string text() const;
};

/// The sentences of --help for these options.
extern const char* const column_options_help;

/// `argument` is "key" and a number in [low, high]: the number. Throws std::invalid_argument,
/// naming the solver.
double number_option(const std::string& solver, const std::string& argument, const std::string& key,
                     double low, double high);

/// P, f64 [in, in], strictly upper triangular, from U and the order of the columns: order[j] is the
/// column that is rounded as number j, and rows and columns of U and P are in that order.
using ColumnCarry = std::function<Tensor(const Tensor& upper, const std::vector<int64_t>& order)>;

/// Solves the layer by this loop. A matrix H that is not positive definite gets more damping, which
/// a note says. Throws as LayerSolver::solve() does.
LayerSolution solve_column_by_column(const LayerProblem& problem, const ColumnOptions& options,
                                     const ColumnCarry& carry = nullptr);

}  // namespace cbq
