// References of quant/: grids, rounding and their gradients as textbook loops in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tests/reference/array.h"

namespace cbq::reference {

struct Grid {
  double scale, zero_point;
};

inline double squared_error(const std::vector<double>& x, Grid grid, double largest) {
  double error = 0.0;
  for (double value : x) {
    const double q = std::clamp(std::nearbyint(value / grid.scale) + grid.zero_point, 0.0, largest);
    const double d = grid.scale * (q - grid.zero_point) - value;
    error += d * d;
  }
  return error;
}

/// s = (max(x, 0) - min(x, 0)) / largest in the arithmetic of A, z = clamp(round(-min / s), 0,
/// largest).
template <class A>
Grid min_max_grid(const std::vector<double>& x, A largest) {
  A low = 0, high = 0;
  for (double value : x) {
    low = std::min(low, static_cast<A>(value));
    high = std::max(high, static_cast<A>(value));
  }
  if (low == 0 && high == 0) return {1.0, 0.0};
  const A s = (high - low) / largest;
  return {s, std::clamp(std::nearbyint(-low / s), A(0), largest)};
}

/// The least error over clip ratios 1, 1 - step, ... > 0 of both ends (one of them if not `both`).
inline double brute_force_error(const std::vector<double>& x, double largest, double step,
                                bool symmetric) {
  double low = 0, high = 0, least = INFINITY;
  for (double value : x) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  const double reach = std::max(-low, high);
  for (double a = 1.0; a > step / 2; a -= step) {
    if (symmetric) {
      least =
          std::min(least, squared_error(x, {2 * a * reach / largest, (largest + 1) / 2}, largest));
      continue;
    }
    for (double b = 1.0; b > step / 2; b -= step) {
      const double s = (b * high - a * low) / largest;
      const Grid grid{s, std::clamp(std::nearbyint(-a * low / s), 0.0, largest)};
      least = std::min(least, squared_error(x, grid, largest));
    }
  }
  return least;
}

}  // namespace cbq::reference
