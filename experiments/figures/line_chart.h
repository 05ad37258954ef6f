// Series of points over two axes, with ticks and a legend.
#pragma once

#include <string>
#include <vector>

#include "experiments/figures/svg.h"

namespace cbq {

struct Series {
  enum class Style {
    line,   // points joined by a line
    stems,  // a line from the axis up to each point, as for the channels of an activation
  };
  std::string name;
  std::vector<double> x, y;
  std::vector<double> error = {};  // half the length of a bar on each point; empty: none
  Style style = Style::line;
};

/// A horizontal line across the panel.
struct ReferenceLine {
  double y;
  std::string name;
};

struct LineChart {
  std::string title;
  std::string x_label, y_label;
  bool logarithmic_y = false;  // points that are not above 0 are left out
  bool from_zero = false;      // the vertical axis begins at 0
  std::vector<Series> series;
  std::vector<ReferenceLine> references = {};
  std::vector<double> x_ticks = {};  // empty: round values
  double y_low = 0.0, y_high = 0.0;  // the vertical axis; equal: from the points
};

/// Points that are not finite are left out, and lines have a gap there. Throws
/// std::invalid_argument for series of unequal x and y, or a chart without a point.
Panel line_chart(const LineChart& chart);

}  // namespace cbq
