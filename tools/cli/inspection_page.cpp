// `cbq inspect --html`: the blocks and layers of a model as a page with charts.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "experiments/figures/line_chart.h"
#include "experiments/format_text.h"
#include "experiments/html_page.h"
#include "tools/cli/inspection.h"

namespace cbq::cli {
namespace {

/// A number of each block, where it has one.
using NumberOfBlock = std::function<std::optional<double>(const InspectedBlock&)>;

Series series_of(const std::string& name, const std::vector<InspectedBlock>& blocks,
                 const NumberOfBlock& number) {
  Series series{name, {}, {}};
  for (const InspectedBlock& block : blocks) {
    const std::optional<double> y = number(block);
    if (!y) continue;
    series.x.push_back(static_cast<double>(block.number));
    series.y.push_back(*y);
  }
  return series;
}

/// The chart, unless there is nothing to see in it.
void add_chart(std::string& out, LineChart chart) {
  std::erase_if(chart.series, [&](const Series& s) {
    return std::none_of(s.y.begin(), s.y.end(),
                        [&](double y) { return !chart.logarithmic_y || y > 0.0; });
  });
  if (chart.series.empty()) return;
  chart.x_label = "block";
  const std::vector<double>& numbers = chart.series.front().x;
  if (numbers.size() <= 8) chart.x_ticks = numbers;  // round values would lie between so few blocks
  out += svg_element(line_chart(chart));
}

std::string charts_of(const std::vector<InspectedBlock>& blocks) {
  std::string out = "<div class=\"panels\">\n";
  add_chart(out, {.title = "Bits per weight",
                  .y_label = "bits",
                  .from_zero = true,
                  .series = {series_of("stored", blocks, [](const InspectedBlock& b) {
                    return std::optional(b.bits_per_weight());
                  })}});
  add_chart(out, {.title = "Codes used",
                  .y_label = "share of the codes, %",
                  .series = {series_of("mean of the groups", blocks, [](const InspectedBlock& b) {
                    const auto share = b.share();
                    return share ? std::optional(100.0 * *share) : std::nullopt;
                  })}});
  const auto error = [](double (CodeDistance::*of)() const) {
    return [of](const InspectedBlock& b) {
      const auto d = b.distance();
      return d ? std::optional(((*d).*of)()) : std::nullopt;
    };
  };
  add_chart(out, {.title = "Relative error of the weights",
                  .y_label = "||W^ - W||² / ||W||²",
                  .logarithmic_y = true,
                  .series = {series_of("these codes", blocks, error(&CodeDistance::error)),
                             series_of("nearest", blocks, error(&CodeDistance::nearest_error))}});
  const auto loss = [](double WindowLosses::*of) {
    return [of](const InspectedBlock& b) {
      return b.losses ? std::optional((*b.losses).*of) : std::nullopt;
    };
  };
  add_chart(out, {.title = "Loss of the window that finished a block",
                  .y_label = "mean per token",
                  .logarithmic_y = true,
                  .series = {series_of("before", blocks, loss(&WindowLosses::before)),
                             series_of("after", blocks, loss(&WindowLosses::after))}});
  return out + "</div>\n";
}

TextTable layer_table(const std::vector<InspectedBlock>& blocks) {
  TextTable table{"layer", {}, {}, {}};
  table.groups.push_back({"", {"shape", "bits", "group"}, {}});
  table.groups.push_back({"grid", {"scale or weight", "zero", "codes used"}, {}});
  table.groups.push_back({"relative error", {"codes", "nearest", "moved"}, {}});
  table.groups.push_back({"", {"remarks"}, {}});
  for (const InspectedBlock& block : blocks) {
    if (!block.layers.empty()) table.rules.push_back(table.labels.size());
    for (const InspectedLayer& l : block.layers) {
      table.labels.push_back(l.path);
      table.groups[0].rows.push_back({cbq::to_string(l.shape), std::to_string(l.bits),
                                      l.has_codes ? std::to_string(l.group) : "-"});
      table.groups[1].rows.push_back(
          {to_string(l.values), l.has_codes ? to_string(l.zeros) : "-",
           l.has_codes ? fmt::format("{:.1f} %", 100.0 * l.share) : "-"});
      table.groups[2].rows.push_back(
          l.distance ? std::vector{fmt::format("{:.5f}", l.distance->error()),
                                   fmt::format("{:.5f}", l.distance->nearest_error()),
                                   fmt::format("{:.1f} %", 100.0 * l.distance->moved)}
                     : std::vector<std::string>(3, "-"));
      table.groups[3].rows.push_back({l.remarks});
    }
  }
  return table;
}

}  // namespace

std::string inspection_page(const std::string& folder, const std::vector<std::string>& facts,
                            const std::vector<InspectedBlock>& blocks) {
  std::string body = "<ul class=\"remarks\">\n";
  for (const std::string& fact : facts) body += "<li>" + html_text(fact) + "</li>\n";
  body += "</ul>\n" + charts_of(blocks);
  body += "<h2>Blocks</h2>\n" + html_table(block_table(blocks));
  body += "<h2>Layers</h2>\n" + html_table(layer_table(blocks));
  return html_page("cbq inspect", folder, body);
}

}  // namespace cbq::cli
