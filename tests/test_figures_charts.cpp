// Pictures of figures: well-formed SVG, ticks, contours, and the CSV beside them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "experiments/figures/axis_scale.h"
#include "experiments/figures/colours.h"
#include "experiments/figures/contours.h"
#include "experiments/figures/figure.h"
#include "experiments/figures/figure_page.h"
#include "experiments/figures/heat_map.h"
#include "experiments/figures/hessian.h"
#include "experiments/figures/line_chart.h"
#include "tests/strict_xml.h"
#include "tests/test_data.h"

namespace cbq::test_figures_charts {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(StrictXml, RefusesWhatIsNotWellFormed) {
  EXPECT_NO_THROW(StrictXml(std::string("<a b=\"1\"><c/>&lt;</a>")));
  for (const std::string text : {"<a>", "<a></b>", "<a b=1/>", "<a b=\"1\" b=\"2\"/>", "<a>&x;</a>",
                                 "<a/><b/>", "<a b=\"<\"/>", "<a>\x01</a>", "x"}) {
    EXPECT_THROW(StrictXml{text}, std::runtime_error) << text;
  }
}

HeatMap small_map() {
  HeatMap map;
  map.title = "a < b & \"c\"";
  map.x_label = "x";
  map.y_label = "it's y";
  map.values = {{1.0, 2.0, nan}, {3.0, 4.0, 5.0}};
  map.contours = {2.5};
  map.marks = {{1.0, 0.5, "minimum <here>"}};
  return map;
}

LineChart small_chart() {
  LineChart chart;
  chart.title = "errors & bits";
  chart.series = {{"one\x01", {1, 2, 3}, {1.0, nan, 100.0}, {0.1, 0.1, 5.0}},
                  {"two", {1, 2, 3}, {2.0, 3.0, 0.0}, {}, Series::Style::stems}};
  chart.references = {{50.0, "limit"}};
  return chart;
}

TEST(FigureSvg, IsWellFormed) {
  const Panel map = heat_map(small_map());
  LineChart chart = small_chart();
  const Panel linear = line_chart(chart);
  chart.logarithmic_y = true;
  const Panel logarithmic = line_chart(chart);
  const std::string file = svg_file("a <title>", {map, linear, logarithmic}, 2);
  const StrictXml xml(file);
  EXPECT_EQ(xml.elements.at("svg"), 1);
  EXPECT_EQ(xml.elements.at("g"), 3);
  EXPECT_NE(xml.characters.find("a < b & \"c\""), std::string::npos);
  EXPECT_NE(xml.characters.find("minimum <here>"), std::string::npos);
  EXPECT_EQ(file.find("nan"), std::string::npos);
  EXPECT_EQ(file.find("inf"), std::string::npos);
  for (const Panel& panel : {map, linear, logarithmic}) {
    EXPECT_NO_THROW(StrictXml(svg_element(panel)));
  }
}

TEST(FigureSvg, RefusesWhatCannotBeShown) {
  HeatMap map = small_map();
  map.values = {{nan, nan}};
  expect_error<std::invalid_argument>([&] { heat_map(map); }, {"no value can be shown"});
  map.values = {{1.0, 2.0}, {3.0}};
  expect_error<std::invalid_argument>([&] { heat_map(map); }, {"rows of 2 and 1"});
  map.low = 1.0;
  map.high = 3.0;  // with a given range of colours, too
  expect_error<std::invalid_argument>([&] { heat_map(map); }, {"rows of 2 and 1"});
  map.values.clear();
  expect_error<std::invalid_argument>([&] { heat_map(map); }, {"no values"});
  LineChart chart = small_chart();
  chart.series = {{"none", {1.0}, {nan}}};
  expect_error<std::invalid_argument>([&] { line_chart(chart); }, {"no point can be shown"});
  chart.series = {{"uneven", {1.0, 2.0}, {1.0}}};
  expect_error<std::invalid_argument>([&] { line_chart(chart); }, {"'uneven'", "2 x, 1 y"});
  expect_error<std::invalid_argument>([] { svg_number(nan); }, {"not finite"});
}

TEST(FigureSvg, OneValueIsDrawn) {
  HeatMap map;
  map.values = {{0.0}};
  EXPECT_NO_THROW(heat_map(map));
  LineChart chart;
  chart.series = {{"point", {3.0}, {0.0}}};
  EXPECT_NO_THROW(line_chart(chart));
}

std::vector<std::string> labels(double low, double high, bool logarithmic) {
  std::vector<std::string> all;
  for (const Tick& tick : ticks_of(low, high, logarithmic)) all.push_back(tick.label);
  return all;
}

TEST(FigureAxes, TicksAreRoundAndDistinct) {
  using Labels = std::vector<std::string>;
  EXPECT_EQ(labels(0.0, 10.0, false), (Labels{"0", "2", "4", "6", "8", "10"}));
  EXPECT_EQ(labels(2.972, 2.986, false), (Labels{"2.975", "2.98", "2.985"}));
  EXPECT_EQ(labels(-1.0, 1.0, false), (Labels{"-1", "-0.5", "0", "0.5", "1"}));
  EXPECT_EQ(labels(0.002, 30.0, true), (Labels{"0.01", "0.1", "1", "10"}));
  EXPECT_EQ(labels(0.03, 0.6, true), (Labels{"0.05", "0.1", "0.2", "0.5"}));
  expect_error<std::invalid_argument>([] { ticks_of(1.0, 1.0, false); }, {"no range"});
  expect_error<std::invalid_argument>([] { ticks_of(0.0, 1.0, true); }, {"above 0"});
}

TEST(FigureAxes, PixelsFollowTheScale) {
  const AxisScale linear{0.0, 10.0, 100.0, 0.0};
  EXPECT_DOUBLE_EQ(linear.pixel(2.5), 75.0);
  EXPECT_DOUBLE_EQ(linear.pixel(99.0), 0.0);
  const AxisScale logarithmic{0.01, 100.0, 0.0, 40.0, true};
  EXPECT_NEAR(logarithmic.pixel(0.1), 10.0, 1e-9);
}

TEST(FigureColours, EndsOfTheScale) {
  EXPECT_EQ(sequential_colour(-1.0), "#440154");
  EXPECT_EQ(sequential_colour(2.0), "#fde725");
  EXPECT_NE(series_colour(0), series_colour(1));
}

TEST(FigureContours, OfAPlaneIsALine) {
  Matrix plane(4, std::vector<double>(5));
  for (size_t r = 0; r < 4; ++r) {
    for (size_t c = 0; c < 5; ++c)
      plane[r][c] = static_cast<double>(c) + 0.5 * static_cast<double>(r);
  }
  const auto pieces = contour(plane, 2.25);
  EXPECT_GE(pieces.size(), 3u);
  for (const ContourSegment& s : pieces) {  // each end is on the line x + y / 2 = 2.25
    EXPECT_NEAR(s.x1 + 0.5 * s.y1, 2.25, 1e-12);
    EXPECT_NEAR(s.x2 + 0.5 * s.y2, 2.25, 1e-12);
  }
}

TEST(FigureContours, SaddleIsCutWhereItsMiddleSays) {
  // The middle, 0.6, is above 0.5: the low corners (1, 0) and (0, 1) are cut off, each by a piece
  // whose ends lie on the two sides of that corner.
  const auto pieces = contour({{1.4, 0.0}, {0.0, 1.0}}, 0.5);
  ASSERT_EQ(pieces.size(), 2u);
  for (const ContourSegment& s : pieces) {
    const bool right_top = s.x1 + s.x2 > 1.0;
    const double corner_x = right_top ? 1.0 : 0.0, corner_y = right_top ? 0.0 : 1.0;
    EXPECT_TRUE(s.x1 == corner_x || s.y1 == corner_y);
    EXPECT_TRUE(s.x2 == corner_x || s.y2 == corner_y);
  }
  // Below 0.5 in the middle: the high corners are cut off.
  for (const ContourSegment& s : contour({{0.9, 0.0}, {0.0, 0.9}}, 0.5)) {
    const bool left_top = s.x1 + s.y1 < 1.0;
    EXPECT_EQ(left_top, s.x2 + s.y2 < 1.0);
  }
}

TEST(FigureData, CsvHasItsColumns) {
  FigureData data{{{"a", "first"}, {"b", "second"}}, {}};
  data.add({"1", "x,y"});
  EXPECT_EQ(data.to_csv(), "a,b\n1,\"x,y\"\n");
  expect_error<std::invalid_argument>([&] { data.add({"1"}); }, {"1 fields for 2 columns"});
}

TEST(FigureKeys, AreChecked) {
  using Keys = std::vector<std::string>;
  EXPECT_EQ(select_figures("depth,1a,depth"), (Keys{"depth", "1a"}));
  EXPECT_EQ(select_figures("all"), (Keys{"1a", "1b", "1c", "3", "bits", "depth"}));
  EXPECT_TRUE(select_figures("").empty());
  expect_error<std::invalid_argument>([] { select_figures("1a,7"); }, {"figure '7'", "known: 1a"});
}

TEST(FigurePage, TextIsEscaped) {
  Figure figure;
  figure.key = "1a";
  figure.title = "<script>";
  figure.caption = {"a & b"};
  figure.panels = {heat_map(small_map())};
  const std::string html = figure_sections({figure});
  EXPECT_NO_THROW(StrictXml{html});
  EXPECT_EQ(html.find("<script>"), std::string::npos);
  EXPECT_NE(html.find("a &amp; b"), std::string::npos);
  EXPECT_NE(figure_links({figure}).find("#figure-1a"), std::string::npos);
}

}  // namespace
}  // namespace cbq::test_figures_charts
