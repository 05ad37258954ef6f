#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "experiments/figures/figure_page.h"
#include "experiments/format_text.h"
#include "experiments/html_page.h"
#include "experiments/report_files.h"

namespace cbq {
namespace {

const char* class_of(Verdict verdict) {
  if (verdict == Verdict::agree) return "agree";
  return verdict == Verdict::disagree ? "disagree" : "open";
}

std::string anchor_of(const TableReport& report) {
  std::string out = "table-";
  for (const char c : report.spec.key + "-" + report.bits) {
    out += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  }
  return out;
}

/// Whether a step has an interval that can be drawn.
bool is_drawn(const TrendStep& step) {
  return step.error > 0.0 && step.verdict != Verdict::same && std::isfinite(step.change) &&
         std::isfinite(step.noise);
}

/// The largest distance from zero of all intervals of a table: they share one scale.
double scale_of(const TableReport& report) {
  double scale = 0.0;
  for (const ReportTrend& trend : report.trends) {
    for (const auto& steps : trend.steps) {
      for (const TrendStep& step : steps) {
        if (is_drawn(step)) scale = std::max(scale, std::abs(step.change) + step.noise);
      }
    }
  }
  return scale;
}

/// A difference and its 95 % interval beside the zero.
std::string interval_svg(const TrendStep& step, double scale) {
  constexpr double width = 180.0, middle = width / 2, reach = middle - 6.0;
  const auto x = [&](double value) { return middle + reach * value / scale; };
  return fmt::format(
      "<svg width=\"{0:.0f}\" height=\"16\" viewBox=\"0 0 {0:.0f} 16\" role=\"img\" "
      "aria-label=\"{1:+.4f}, from {2:+.4f} to {3:+.4f} nats\">"
      "<line class=\"zero\" x1=\"{4:.1f}\" x2=\"{4:.1f}\" y1=\"0\" y2=\"16\"/>"
      "<line class=\"{5}\" x1=\"{6:.1f}\" x2=\"{7:.1f}\" y1=\"8\" y2=\"8\" stroke-width=\"2\"/>"
      "<circle class=\"{5}\" cx=\"{8:.1f}\" cy=\"8\" r=\"3.5\"/></svg>",
      width, step.change, step.change - step.noise, step.change + step.noise, middle,
      class_of(step.verdict), x(step.change - step.noise), x(step.change + step.noise),
      x(step.change));
}

std::string metric_title(const TableReport& report, const std::string& metric) {
  for (const ReportText& text : report.texts) {
    if (text.metric == metric) return text.title;
  }
  return metric == "gpu_memory_gb" ? "peak memory" : metric == "time_hours" ? "time" : metric;
}

std::string step_row(const TableReport& report, const ReportTrend& trend, size_t granularity,
                     const TrendStep& step, double scale) {
  const std::string label = trend.chain ? concat(trend.from, " → ", trend.to) : trend.claim;
  std::string what = metric_title(report, step.metric);
  if (report.granularities.size() > 1) what += ", " + report.granularities[granularity];
  const std::string ours = is_drawn(step) ? fmt::format("{:+.4f} ± {:.4f}", step.change, step.error)
                                          : name_of(step.ours);
  return fmt::format(
      "<tr{}><td class=\"label\">{}</td><td class=\"left\">{}</td><td class=\"paper\">{}</td>"
      "<td class=\"ours\">{}</td><td class=\"interval\">{}</td>"
      "<td class=\"verdict {}\">{}</td></tr>\n",
      trend.chain ? " class=\"step\"" : "", html_text(label), html_text(what), name_of(step.paper),
      ours, is_drawn(step) ? interval_svg(step, scale) : "", class_of(step.verdict),
      name_of(step.verdict));
}

std::string trend_table(const TableReport& report) {
  if (report.trends.empty()) return "";
  const double scale = scale_of(report);
  std::string out =
      "<h3>Trends</h3>\n<div class=\"scroll\"><table class=\"trends\">\n<thead><tr><th "
      "class=\"label\">trend</th>"
      "<th class=\"left\">quantity</th><th>paper</th><th>ours, nats per token</th>"
      "<th class=\"middle\">95 % interval</th><th>verdict</th></tr></thead>\n<tbody>\n";
  const std::string* chain = nullptr;
  for (const ReportTrend& trend : report.trends) {
    if (trend.chain && (chain == nullptr || *chain != trend.claim)) {
      out += "<tr class=\"claim\"><td class=\"label\">" + html_text(trend.claim) +
             "</td><td class=\"rest\" colspan=\"5\"></td></tr>\n";
    }
    chain = trend.chain ? &trend.claim : nullptr;
    for (size_t g = 0; g < trend.steps.size(); ++g) {
      for (const TrendStep& step : trend.steps[g]) out += step_row(report, trend, g, step, scale);
    }
  }
  return out + "</tbody></table></div>\n";
}

std::string list_of(const std::vector<std::string>& lines, const char* name) {
  std::string out = fmt::format("<ul class=\"{}\">\n", name);
  for (const std::string& line : lines) out += "<li>" + html_text(line) + "</li>\n";
  return out + "</ul>\n";
}

std::string section_of(const TableReport& report) {
  std::string out = fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n", anchor_of(report),
                                html_text(heading(report)));
  out += html_table(value_table(report));
  out += trend_table(report);
  if (!report.texts.empty()) {
    out += "<h3>Predictions against the original model (KL in nats)</h3>\n";
    out += html_table(fidelity_table(report));
  }
  out += "<h3>Remarks, budget and provenance</h3>\n" + list_of(remarks(report), "remarks");
  return out + "</section>\n";
}

std::string count_box(int count, const char* words, const char* name) {
  return fmt::format("<div><b class=\"{}\">{}</b>{}</div>\n", name, count, words);
}

std::string summary_section(const Summary& summary) {
  std::string out =
      "<section id=\"summary\">\n<p>Pairwise orderings of the paper's perplexities, "
      "here:</p>\n<div class=\"counts\">\n";
  out += count_box(summary.pairs.holds, "hold", "agree");
  out += count_box(summary.pairs.refuted, "refuted", "disagree");
  out += count_box(summary.pairs.unresolved, "not resolved", "open");
  out += "</div>\n" + list_of(lines_of(summary), "remarks");
  if (summary.refuted.empty()) return out + "</section>\n";
  out += fmt::format("<details{}><summary>What is refuted</summary>\n",
                     summary.refuted.size() <= 12 ? " open" : "");
  return out + list_of(summary.refuted, "remarks") + "</details>\n</section>\n";
}

}  // namespace

std::string to_html(const std::vector<TableReport>& reports, const Summary& summary,
                    const std::vector<Figure>& figures) {
  const char* title = reports.empty() && !figures.empty() ? "Figures of a model at hand"
                                                          : "The paper's tables on a model at hand";
  std::string out;
  if (!reports.empty() || figures.empty()) out += summary_section(summary);
  out += "<nav><ul>\n";
  for (const TableReport& report : reports) {
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", anchor_of(report),
                       html_text(heading(report)));
  }
  out += figure_links(figures) + "</ul></nav>\n";
  for (const TableReport& report : reports) out += section_of(report);
  out += figure_sections(figures);
  return html_page("run_ablation", title, out);
}

}  // namespace cbq
