#include "experiments/figures/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "experiments/figures/axis_scale.h"
#include "experiments/figures/colours.h"
#include "experiments/figures/contours.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int colour_steps = 64;  // cells of one colour are one path: a small file

class HeatMapDrawing {
 public:
  explicit HeatMapDrawing(const HeatMap& map) : map_(map) {
    check(!map.values.empty() && !map.values.front().empty(), "heat map '", map.title,
          "': no values");
    rows_ = map.values.size();
    columns_ = map.values.front().size();
    for (const auto& row : map.values) {
      check(row.size() == columns_, "heat map '", map.title, "': rows of ", columns_, " and ",
            row.size(), " values");
    }
    const bool ranged_x = map.x_from != map.x_to, ranged_y = map.y_from != map.y_to;
    x_ = {ranged_x ? map.x_from : -0.5, ranged_x ? map.x_to : static_cast<double>(columns_) - 0.5,
          left, left + side};
    y_ = {ranged_y ? map.y_from : -0.5, ranged_y ? map.y_to : static_cast<double>(rows_) - 0.5, top,
          top + side};
    upright(x_);
    upright(y_);
    set_colour_range();
  }

  Panel draw() {
    cells();
    for (const double level : map_.contours) lines_at(level);
    axes();
    colour_bar();
    marks();
    const double height = top + side + 46.0 + legend_line * static_cast<double>(map_.marks.size());
    return {map_.title, panel_width, height, svg_.body()};
  }

 private:
  static constexpr double left = 58.0, top = 34.0, side = 264.0, bar_gap = 14.0, bar_width = 14.0;
  static constexpr double panel_width = 420.0, legend_line = 18.0;

  /// AxisScale wants low < high; an axis may run the other way.
  static void upright(AxisScale& axis) {
    if (axis.low <= axis.high) return;
    std::swap(axis.low, axis.high);
    std::swap(axis.from, axis.to);
  }

  void set_colour_range() {
    low_ = map_.low;
    high_ = map_.high;
    if (low_ == high_) {
      low_ = std::numeric_limits<double>::infinity();
      high_ = -low_;
      for (const auto& row : map_.values) {
        for (const double v : row) {
          if (!std::isfinite(v) || (map_.logarithmic && v <= 0.0)) continue;
          low_ = std::min(low_, v);
          high_ = std::max(high_, v);
        }
      }
      check(low_ <= high_, "heat map '", map_.title, "': no value can be shown");
    }
    if (low_ == high_) high_ = low_ + (low_ == 0.0 ? 1.0 : std::abs(low_));  // one value only
  }

  double part_of(double value) const {
    if (!map_.logarithmic) return (value - low_) / (high_ - low_);
    return value <= low_ ? 0.0 : std::log(value / low_) / std::log(high_ / low_);
  }

  double column_x(double c) const { return left + side * c / static_cast<double>(columns_); }
  double row_y(double r) const { return top + side * r / static_cast<double>(rows_); }

  void cells() {
    std::vector<std::string> paths(colour_steps);
    for (size_t r = 0; r < rows_; ++r) {
      for (size_t c = 0; c < columns_; ++c) {
        const double value = map_.values[r][c];
        if (std::isnan(value)) continue;
        const double part = std::clamp(part_of(value), 0.0, 1.0);
        const auto step = static_cast<size_t>(std::lround(part * (colour_steps - 1)));
        const auto x = static_cast<double>(c), y = static_cast<double>(r);
        paths[step] += fmt::format("M{} {}H{}V{}H{}z", svg_number(column_x(x)),
                                   svg_number(row_y(y)), svg_number(column_x(x + 1.0)),
                                   svg_number(row_y(y + 1.0)), svg_number(column_x(x)));
      }
    }
    for (size_t step = 0; step < paths.size(); ++step) {
      if (paths[step].empty()) continue;
      svg_.area(paths[step], sequential_colour(static_cast<double>(step) / (colour_steps - 1)));
    }
  }

  /// Contours pass the middles of cells.
  void lines_at(double level) {
    for (const ContourSegment& s : contour(map_.values, level)) {
      svg_.line(column_x(s.x1 + 0.5), row_y(s.y1 + 0.5), column_x(s.x2 + 0.5), row_y(s.y2 + 0.5),
                "#ffffff", 1.0, 0.8);
    }
  }

  void axes() {
    svg_.frame(left, top, side, side);
    svg_.text(left + side / 2, 18.0, map_.title, Svg::Anchor::middle, 13.0);
    for (const Tick& tick : ticks_of(x_.low, x_.high, false)) {
      const double x = x_.pixel(tick.value);
      svg_.line(x, top + side, x, top + side + 5.0, "currentColor");
      svg_.text(x, top + side + 18.0, tick.label, Svg::Anchor::middle, 11.0);
    }
    for (const Tick& tick : ticks_of(y_.low, y_.high, false)) {
      const double y = y_.pixel(tick.value);
      svg_.line(left - 5.0, y, left, y, "currentColor");
      svg_.text(left - 8.0, y + 4.0, tick.label, Svg::Anchor::end, 11.0);
    }
    svg_.text(left + side / 2, top + side + 36.0, map_.x_label);
    svg_.text(16.0, top + side / 2, map_.y_label, Svg::Anchor::middle, 12.0, -90.0);
  }

  void colour_bar() {
    const double x = left + side + bar_gap, step = side / colour_steps;
    for (int i = colour_steps - 1; i >= 0; --i) {
      const double y = top + side - (i + 1) * step;  // down to the end, or gaps would show
      svg_.area(fmt::format("M{} {}h{}V{}h-{}z", svg_number(x), svg_number(y),
                            svg_number(bar_width), svg_number(top + side), svg_number(bar_width)),
                sequential_colour(static_cast<double>(i) / (colour_steps - 1)));
    }
    svg_.frame(x, top, bar_width, side);
    const AxisScale scale = {low_, high_, top + side, top, map_.logarithmic};
    for (const Tick& tick : ticks_of(low_, high_, map_.logarithmic)) {
      const double y = scale.pixel(tick.value);
      svg_.line(x + bar_width, y, x + bar_width + 4.0, y, "currentColor");
      svg_.text(x + bar_width + 7.0, y + 4.0, tick.label, Svg::Anchor::start, 11.0);
    }
    svg_.text(panel_width - 8.0, top + side / 2, map_.value_label, Svg::Anchor::middle, 12.0,
              -90.0);
  }

  void symbol(double x, double y, bool filled) {
    svg_.circle(x, y, 6.0, "#ffffff").circle(x, y, 4.5, "#c4252b");
    if (!filled) svg_.circle(x, y, 2.5, "#ffffff");
  }

  /// Marks, and a line for each below the panel.
  void marks() {
    double y = top + side + 56.0;
    for (const HeatMap::Mark& mark : map_.marks) {
      symbol(x_.pixel(mark.x), y_.pixel(mark.y), mark.filled);
      symbol(left + 6.0, y - 4.0, mark.filled);
      svg_.text(left + 18.0, y, mark.label, Svg::Anchor::start, 11.0);
      y += legend_line;
    }
  }

  const HeatMap& map_;
  size_t rows_ = 0, columns_ = 0;
  AxisScale x_, y_;
  double low_ = 0.0, high_ = 1.0;
  Svg svg_;
};

}  // namespace

Panel heat_map(const HeatMap& map) { return HeatMapDrawing(map).draw(); }

}  // namespace cbq
