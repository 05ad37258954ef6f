// A small writer of SVG (Scalable Vector Graphics 1.1, W3C 2011): elements as text, without a
// library. Charts (experiments/figures/heat_map.h, line_chart.h) draw on it.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cbq {

/// A coordinate or size with at most two digits behind the point: "12.5", "-3", "0".
std::string svg_number(double value);

/// What is drawn, in order; later elements lie above earlier ones. Coordinates are pixels, from the
/// upper left corner. Text, axes and what has no colour of its own take the surrounding text's
/// colour ("currentColor"), so that a picture follows the theme of the page that it stands in.
class Svg {
 public:
  enum class Anchor { start, middle, end };
  using Points = std::vector<std::pair<double, double>>;

  /// `colour`: "#rrggbb" or "currentColor". `opacity` in [0, 1].
  Svg& line(double x1, double y1, double x2, double y2, const std::string& colour,
            double width = 1.0, double opacity = 1.0, const std::string& dashes = "");
  Svg& polyline(const Points& points, const std::string& colour, double width,
                const std::string& dashes = "");
  Svg& rectangle(double x, double y, double width, double height, const std::string& fill,
                 double opacity = 1.0);
  Svg& frame(double x, double y, double width, double height);
  Svg& circle(double x, double y, double radius, const std::string& fill);
  /// A path in SVG's own words ("M0 0h1v1h-1z"), filled, with sharp edges between neighbours.
  Svg& area(const std::string& path, const std::string& fill);
  /// `degrees`: turned clockwise around its anchor.
  Svg& text(double x, double y, const std::string& words, Anchor anchor = Anchor::middle,
            double size = 12.0, double degrees = 0.0);

  const std::string& body() const { return body_; }

 private:
  std::string body_;
};

/// One picture of a figure: its size in pixels and its elements.
struct Panel {
  std::string title;  // also read aloud by programs for the blind
  double width = 0.0, height = 0.0;
  std::string body;
};

/// The panel as an element <svg> for an HTML page, as wide as the page lets it.
std::string svg_element(const Panel& panel);
/// A file of its own: the panels side by side, `per_row` in a row, on white paper. Well-formed XML.
std::string svg_file(const std::string& title, const std::vector<Panel>& panels, size_t per_row);

}  // namespace cbq
