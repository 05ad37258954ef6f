// Lines of equal height of a surface that is known on a grid.
#pragma once

#include <vector>

namespace cbq {

struct ContourSegment {
  double x1, y1, x2, y2;  // in columns and rows of the grid
};

/// Marching squares (Lorensen & Cline 1987, in two dimensions): for each square of four neighbours
/// of `values` [row][column] the straight pieces where the surface passes `level`, with ends
/// interpolated along its sides. Of the two ways through a saddle the mean of its corners decides.
/// Squares with a value that is not finite have none. Throws std::invalid_argument for rows of
/// different lengths.
std::vector<ContourSegment> contour(const std::vector<std::vector<double>>& values, double level);

}  // namespace cbq
