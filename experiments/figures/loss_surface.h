// A loss over two variables on a square grid: its minimum, and what two separate searches would
// take for it.
#pragma once

#include <functional>
#include <vector>

#include "experiments/figures/hessian.h"

namespace cbq {

struct LossSurface {
  std::vector<double> grid;  // values of both variables, rising
  Matrix loss;               // [first][second]
};

/// loss(x, y) for all x and y of `grid`, x slow. `each` as in finite_difference_hessian. Throws
/// std::invalid_argument for a grid of fewer than three values.
LossSurface loss_surface(const std::function<double(double x, double y)>& loss,
                         const std::vector<double>& grid,
                         const std::function<void(int64_t done, int64_t total)>& each = {});

struct SurfaceMinimum {
  double x = 0.0, y = 0.0, loss = 0.0;
  /// Where each variable alone, the other at `centre`, has its least loss: what a method finds that
  /// treats the variables one by one.
  double separate_x = 0.0, separate_y = 0.0, separate_loss = 0.0;
  /// sqrt((x - separate_x)^2 + (y - separate_y)^2).
  double offset = 0.0;
  /// max |L(x, y) - (L(x, c) + L(c, y) - L(c, c))| over the grid, c the centre: 0 for a separable
  /// loss.
  double interaction = 0.0;
  double range = 0.0;  // max L - min L
};

/// Of the grid's points; the first of equal ones. `centre` is the grid's value nearest to it.
SurfaceMinimum minimum_of(const LossSurface& surface, double centre);

}  // namespace cbq
