#include "experiments/figures/loss_surface.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace cbq {

LossSurface loss_surface(const std::function<double(double, double)>& loss,
                         const std::vector<double>& grid,
                         const std::function<void(int64_t, int64_t)>& each) {
  check(grid.size() >= 3 && std::is_sorted(grid.begin(), grid.end()),
        "loss surface: expected at least three rising values, got ", grid.size());
  LossSurface surface{grid, {}};
  const auto n = static_cast<int64_t>(grid.size());
  int64_t done = 0;
  for (const double x : grid) {
    surface.loss.emplace_back();
    for (const double y : grid) {
      surface.loss.back().push_back(loss(x, y));
      if (each) each(++done, n * n);
    }
  }
  return surface;
}

SurfaceMinimum minimum_of(const LossSurface& surface, double centre) {
  const std::vector<double>& grid = surface.grid;
  const Matrix& loss = surface.loss;
  size_t c = 0;
  for (size_t i = 1; i < grid.size(); ++i) {
    if (std::abs(grid[i] - centre) < std::abs(grid[c] - centre)) c = i;
  }
  size_t x = 0, y = 0, separate_x = 0, separate_y = 0;
  double highest = loss[0][0], interaction = 0.0;
  for (size_t i = 0; i < grid.size(); ++i) {
    if (loss[i][c] < loss[separate_x][c]) separate_x = i;
    if (loss[c][i] < loss[c][separate_y]) separate_y = i;
    for (size_t j = 0; j < grid.size(); ++j) {
      if (loss[i][j] < loss[x][y]) {
        x = i;
        y = j;
      }
      highest = std::max(highest, loss[i][j]);
      interaction =
          std::max(interaction, std::abs(loss[i][j] - (loss[i][c] + loss[c][j] - loss[c][c])));
    }
  }
  SurfaceMinimum m{grid[x], grid[y], loss[x][y]};
  m.separate_x = grid[separate_x];
  m.separate_y = grid[separate_y];
  m.separate_loss = loss[separate_x][separate_y];
  m.offset = std::hypot(m.x - m.separate_x, m.y - m.separate_y);
  m.interaction = interaction;
  m.range = highest - m.loss;
  return m;
}

}  // namespace cbq
