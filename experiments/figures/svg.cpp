#include "experiments/figures/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/format_text.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr double gap = 24.0;  // between the panels of a file

const char* word_of(Svg::Anchor anchor) {
  if (anchor == Svg::Anchor::start) return "start";
  return anchor == Svg::Anchor::middle ? "middle" : "end";
}

std::string dash_attribute(const std::string& dashes) {
  return dashes.empty() ? "" : " stroke-dasharray=\"" + dashes + "\"";
}

/// Names and values of a chart may hold any text, but XML 1.0 has no control characters.
std::string xml_text(const std::string& text) {
  std::string out = html_text(text);
  std::erase_if(out, [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n'; });
  return out;
}

std::string size_attributes(double width, double height) {
  return fmt::format("viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\"", svg_number(width),
                     svg_number(height));
}

constexpr const char* font =
    "font-family=\"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\"";

}  // namespace

std::string svg_number(double value) {
  check(std::isfinite(value), "svg: a coordinate is not finite");
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

Svg& Svg::line(double x1, double y1, double x2, double y2, const std::string& colour, double width,
               double opacity, const std::string& dashes) {
  body_ += fmt::format(
      "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"{}\"{}{}/>\n",
      svg_number(x1), svg_number(y1), svg_number(x2), svg_number(y2), colour, svg_number(width),
      opacity < 1.0 ? fmt::format(" stroke-opacity=\"{}\"", svg_number(opacity)) : "",
      dash_attribute(dashes));
  return *this;
}

Svg& Svg::polyline(const Points& points, const std::string& colour, double width,
                   const std::string& dashes) {
  std::string list;
  for (const auto& [x, y] : points) {
    list += (list.empty() ? "" : " ") + svg_number(x) + "," + svg_number(y);
  }
  body_ += fmt::format(
      "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" "
      "stroke-linejoin=\"round\"{}/>\n",
      list, colour, svg_number(width), dash_attribute(dashes));
  return *this;
}

Svg& Svg::rectangle(double x, double y, double width, double height, const std::string& fill,
                    double opacity) {
  body_ +=
      fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"{}/>\n",
                  svg_number(x), svg_number(y), svg_number(width), svg_number(height), fill,
                  opacity < 1.0 ? fmt::format(" fill-opacity=\"{}\"", svg_number(opacity)) : "");
  return *this;
}

Svg& Svg::frame(double x, double y, double width, double height) {
  body_ += fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"currentColor\" "
      "stroke-opacity=\"0.6\"/>\n",
      svg_number(x), svg_number(y), svg_number(width), svg_number(height));
  return *this;
}

Svg& Svg::circle(double x, double y, double radius, const std::string& fill) {
  body_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"/>\n", svg_number(x),
                       svg_number(y), svg_number(radius), fill);
  return *this;
}

Svg& Svg::area(const std::string& path, const std::string& fill) {
  body_ += fmt::format("<path d=\"{}\" fill=\"{}\" shape-rendering=\"crispEdges\"/>\n", path, fill);
  return *this;
}

Svg& Svg::text(double x, double y, const std::string& words, Anchor anchor, double size,
               double degrees) {
  const std::string turned = degrees == 0.0
                                 ? ""
                                 : fmt::format(" transform=\"rotate({} {} {})\"",
                                               svg_number(degrees), svg_number(x), svg_number(y));
  body_ += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"{}\" font-size=\"{}\" fill=\"currentColor\"{}>{}"
      "</text>\n",
      svg_number(x), svg_number(y), word_of(anchor), svg_number(size), turned, xml_text(words));
  return *this;
}

std::string svg_element(const Panel& panel) {
  return fmt::format("<svg class=\"panel\" {} role=\"img\" aria-label=\"{}\" {}>\n{}</svg>\n",
                     size_attributes(panel.width, panel.height), xml_text(panel.title), font,
                     panel.body);
}

std::string svg_file(const std::string& title, const std::vector<Panel>& panels, size_t per_row) {
  check(!panels.empty() && per_row >= 1, "svg: a file needs panels, and a row at least one");
  std::string body;
  double width = 0.0, x = gap, y = gap, row_height = 0.0;
  for (size_t i = 0; i < panels.size(); ++i) {
    if (i > 0 && i % per_row == 0) {
      y += row_height + gap;
      x = gap;
      row_height = 0.0;
    }
    const Panel& panel = panels[i];
    body += fmt::format("<g transform=\"translate({} {})\">\n{}</g>\n", svg_number(x),
                        svg_number(y), panel.body);
    x += panel.width + gap;
    width = std::max(width, x);
    row_height = std::max(row_height, panel.height);
  }
  const double height = y + row_height + gap;
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" {} "
      "color=\"#1c2126\" {}>\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#ffffff\"/>\n{}</svg>\n",
      size_attributes(width, height), font, xml_text(title), body);
}

}  // namespace cbq
