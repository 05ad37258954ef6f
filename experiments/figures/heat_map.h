// A matrix as colours, with a colour bar; with contours, a surface seen from above.
#pragma once

#include <string>
#include <vector>

#include "experiments/figures/svg.h"

namespace cbq {

struct HeatMap {
  std::string title;                        // above the panel
  std::string x_label, y_label;             // of columns and rows
  std::string value_label;                  // beside the colour bar
  std::vector<std::vector<double>> values;  // [row][column]; the first row is the uppermost
  /// Values at the ends of the axes: the left edge of the first column, the right edge of the last;
  /// the upper edge of the first row, the lower edge of the last. Equal: columns and rows are
  /// numbered from 0, with the number in the middle of each.
  double x_from = 0.0, x_to = 0.0, y_from = 0.0, y_to = 0.0;
  /// Values of the first and the last colour; equal: those of the smallest and the largest value.
  double low = 0.0, high = 0.0;
  /// Colours by the logarithm; what is not above 0 gets the first colour.
  bool logarithmic = false;
  std::vector<double> contours;  // levels at which lines are drawn
  struct Mark {
    double x, y;  // on the axes
    std::string label;
    bool filled = true;
  };
  std::vector<Mark> marks;
};

/// Throws std::invalid_argument for no values, rows of different lengths, or none that is finite.
Panel heat_map(const HeatMap& map);

}  // namespace cbq
