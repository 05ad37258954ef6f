#include "experiments/figures/line_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "experiments/figures/axis_scale.h"
#include "experiments/figures/colours.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr const char* reference_colour = "#d62f35";
constexpr const char* reference_dashes = "6 4";

const char* dashes_of(size_t i) {
  constexpr const char* all[] = {"", "7 3", "2 3", "9 3 2 3"};
  return all[i % 4];
}

class LineChartDrawing {
 public:
  explicit LineChartDrawing(const LineChart& chart) : chart_(chart) { set_axes(); }

  Panel draw() {
    axes();
    for (size_t i = 0; i < chart_.series.size(); ++i) draw_series(chart_.series[i], i);
    for (const ReferenceLine& line : chart_.references) {
      if (!is_shown(line.y)) continue;
      const double y = y_.pixel(line.y);
      svg_.line(left, y, left + width, y, reference_colour, 1.5, 1.0, reference_dashes);
    }
    return {chart_.title, panel_width, legend(), svg_.body()};
  }

 private:
  static constexpr double left = 62.0, top = 34.0, width = 340.0, height = 230.0;
  static constexpr double panel_width = 420.0, legend_line = 18.0;

  bool is_shown(double y) const { return std::isfinite(y) && (!chart_.logarithmic_y || y > 0.0); }

  struct Range {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    void add(double v) {
      low = std::min(low, v);
      high = std::max(high, v);
    }
    void widen(double part, bool logarithmic) {
      if (low == high) {
        high = logarithmic ? high * 2.0 : high + std::max(std::abs(high), 1e-12);
        if (logarithmic) low /= 2.0;
      }
      const double factor = logarithmic ? std::pow(high / low, part) : 0.0;
      const double margin = part * (high - low);
      low = logarithmic ? low / factor : low - margin;
      high = logarithmic ? high * factor : high + margin;
    }
  };

  void set_axes() {
    Range x, y;
    for (const Series& s : chart_.series) {
      check(s.x.size() == s.y.size() && (s.error.empty() || s.error.size() == s.y.size()),
            "line chart '", chart_.title, "', series '", s.name, "': ", s.x.size(), " x, ",
            s.y.size(), " y, ", s.error.size(), " errors");
      for (size_t i = 0; i < s.x.size(); ++i) {
        if (!is_shown(s.y[i])) continue;
        x.add(s.x[i]);
        const double e = s.error.empty() || !std::isfinite(s.error[i]) ? 0.0 : s.error[i];
        for (const double end : {s.y[i] - e, s.y[i] + e}) {
          if (is_shown(end)) y.add(end);
        }
      }
    }
    check(x.low <= x.high, "line chart '", chart_.title, "': no point can be shown");
    for (const ReferenceLine& line : chart_.references) {
      if (is_shown(line.y)) y.add(line.y);
    }
    if (chart_.from_zero && !chart_.logarithmic_y) y.low = std::min(0.0, y.low);
    x.widen(0.03, false);
    const double floor = y.low;
    y.widen(0.06, chart_.logarithmic_y);
    if (chart_.from_zero && floor == 0.0) y.low = 0.0;
    if (chart_.y_low != chart_.y_high) y = {chart_.y_low, chart_.y_high};
    x_ = {x.low, x.high, left, left + width, false};
    y_ = {y.low, y.high, top + height, top, chart_.logarithmic_y};
  }

  void axes() {
    svg_.text(left + width / 2, 18.0, chart_.title, Svg::Anchor::middle, 13.0);
    for (const Tick& tick : ticks_of(y_.low, y_.high, y_.logarithmic)) {
      const double y = y_.pixel(tick.value);
      svg_.line(left, y, left + width, y, "currentColor", 1.0, 0.15);
      svg_.text(left - 6.0, y + 4.0, tick.label, Svg::Anchor::end, 11.0);
    }
    std::vector<Tick> ticks;
    for (const double value : chart_.x_ticks) ticks.push_back({value, tick_label(value)});
    if (ticks.empty()) ticks = ticks_of(x_.low, x_.high, false, 7);
    for (const Tick& tick : ticks) {
      const double x = x_.pixel(tick.value);
      svg_.line(x, top + height, x, top + height + 5.0, "currentColor");
      svg_.text(x, top + height + 18.0, tick.label, Svg::Anchor::middle, 11.0);
    }
    svg_.frame(left, top, width, height);
    svg_.text(left + width / 2, top + height + 36.0, chart_.x_label);
    svg_.text(14.0, top + height / 2, chart_.y_label, Svg::Anchor::middle, 12.0, -90.0);
  }

  void draw_series(const Series& s, size_t number) {
    const std::string colour = series_colour(number);
    const bool stems = s.style == Series::Style::stems;
    // A later series is narrower, so that an earlier one shows behind it.
    const double narrower = number == 0 ? 1.0 : 0.5;
    const double thick =
        stems ? narrower * std::clamp(0.7 * width / static_cast<double>(s.x.size()), 0.8, 5.0)
              : 2.0;
    Svg::Points run;
    const auto end_run = [&] {
      if (run.size() > 1) svg_.polyline(run, colour, thick, dashes_of(number));
      run.clear();
    };
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!is_shown(s.y[i])) {
        end_run();
        continue;
      }
      const double x = x_.pixel(s.x[i]), y = y_.pixel(s.y[i]);
      if (stems) svg_.line(x, y_.from, x, y, colour, thick);
      if (!stems) run.emplace_back(x, y);
    }
    end_run();
    if (!stems) points(s, colour);
  }

  void points(const Series& s, const std::string& colour) {
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!is_shown(s.y[i])) continue;
      const double x = x_.pixel(s.x[i]);
      if (!s.error.empty() && std::isfinite(s.error[i])) {
        svg_.line(x, y_.pixel(s.y[i] - s.error[i]), x, y_.pixel(s.y[i] + s.error[i]), colour, 1.5);
      }
      svg_.circle(x, y_.pixel(s.y[i]), 3.2, colour);
    }
  }

  /// A line for each series and reference below the panel; returns where the panel ends.
  double legend() {
    double y = top + height + 56.0;
    const auto entry = [&](const std::string& name) {
      svg_.text(left + 34.0, y, name, Svg::Anchor::start, 11.0);
      y += legend_line;
    };
    for (size_t i = 0; i < chart_.series.size(); ++i) {
      const Series& s = chart_.series[i];
      const bool stems = s.style == Series::Style::stems;
      svg_.line(left, y - 4.0, left + 26.0, y - 4.0, series_colour(i), stems ? 6.0 : 2.0, 1.0,
                stems ? "" : dashes_of(i));
      if (!stems) svg_.circle(left + 13.0, y - 4.0, 3.2, series_colour(i));
      entry(s.name);
    }
    for (const ReferenceLine& line : chart_.references) {
      svg_.line(left, y - 4.0, left + 26.0, y - 4.0, reference_colour, 1.5, 1.0, reference_dashes);
      entry(line.name);
    }
    return y;
  }

  const LineChart& chart_;
  AxisScale x_, y_;
  Svg svg_;
};

}  // namespace

Panel line_chart(const LineChart& chart) { return LineChartDrawing(chart).draw(); }

}  // namespace cbq
