#include "experiments/figures/figure_page.h"

#include <fmt/format.h>

#include "experiments/format_text.h"

namespace cbq {

std::string figure_links(const std::vector<Figure>& figures) {
  std::string out;
  for (const Figure& figure : figures) {
    out += fmt::format("<li><a href=\"#figure-{0}\">Figure {0}: {1}</a></li>\n",
                       html_text(figure.key), html_text(figure.title));
  }
  return out;
}

std::string figure_sections(const std::vector<Figure>& figures) {
  std::string out;
  for (const Figure& figure : figures) {
    const std::string key = html_text(figure.key);
    out += fmt::format("<section id=\"figure-{0}\">\n<h2>Figure {0}: {1}</h2>\n", key,
                       html_text(figure.title));
    out += "<div class=\"panels\">\n";
    for (const Panel& panel : figure.panels) out += svg_element(panel);
    out += "</div>\n<ul class=\"remarks\">\n";
    for (const std::string& line : figure.caption) out += "<li>" + html_text(line) + "</li>\n";
    out += fmt::format("<li>data: figures/{}.csv</li>\n</ul>\n</section>\n", key);
  }
  return out;
}

}  // namespace cbq
