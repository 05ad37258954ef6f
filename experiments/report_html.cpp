#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "experiments/figures/figure_page.h"
#include "experiments/format_text.h"
#include "experiments/report_files.h"

namespace cbq {
namespace {

/// Colours as variables, so that the dark page is the same rules with other values. Tables scroll
/// within their own frame and keep their first column in sight: on a telephone the page itself
/// never scrolls sideways. There the lines of a trend become a block each, so that its verdict is
/// in sight.
constexpr const char* style = R"css(
:root { color-scheme: light dark; --back: #ffffff; --text: #1c2126; --faint: #5c6670; --line: #d5dade;
  --stripe: #f4f6f8; --agree: #1a6e2e; --disagree: #b3261e; --open: #5c6670; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --back: #15191d; --text: #e3e7ea; --faint: #9aa4ad;
  --line: #353d44; --stripe: #1d2328; --agree: #6fce86; --disagree: #ff8a80; --open: #9aa4ad;
  --link: #86b7f2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; color: var(--faint); }
a { color: var(--link); }
nav ul, ul.remarks { padding-left: 1.2rem; margin: .4rem 0; }
ul.remarks { font-size: .88rem; overflow-wrap: anywhere; }
.counts { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
.counts div { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .9rem; min-width: 7rem; }
.counts b { display: block; font-size: 1.4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--faint); font-weight: 600; background: var(--stripe); }
th.group { text-align: left; border-left: 1px solid var(--line); }
th.first { border-left: 1px solid var(--line); } td.first { border-left: 1px solid var(--line); }
th.label, td.label, .left { text-align: left; }
th.label, td.label { position: sticky; left: 0; background: var(--back); z-index: 1; }
thead th.label { background: var(--stripe); }
tr.rule > * { border-top: 2px solid var(--faint); }
tr.claim > td.label { font-weight: 600; }
.agree { color: var(--agree); } .disagree { color: var(--disagree); font-weight: 700; }
.open { color: var(--open); }
.middle { text-align: center; } tr.step > td.label { padding-left: 1.6rem; }
svg { display: block; margin: 0 auto; } svg line.zero { stroke: var(--faint); stroke-dasharray: 2 2; }
svg .agree { stroke: var(--agree); fill: var(--agree); }
svg .disagree { stroke: var(--disagree); fill: var(--disagree); }
svg .open { stroke: var(--open); fill: var(--open); }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; } .panels svg { flex: 0 1 410px; min-width: 0;
  width: 100%; max-width: 420px; height: auto; margin: 0; color: var(--text); }
@media (max-width: 600px) { main { padding: 1rem .6rem 3rem; } h1 { font-size: 1.3rem; }
  th, td { padding: .25rem .45rem; }
  th.label, td.label { min-width: 7.5rem; max-width: 46vw; white-space: normal; }
  table.trends thead, table.trends tr.claim td.rest { display: none; }
  table.trends tr { display: grid; grid-template-columns: 1fr auto; padding: .35rem 0;
    border-bottom: 1px solid var(--line); }
  table.trends td { border: 0; padding: .05rem .6rem; text-align: left; white-space: normal; }
  table.trends td.label { grid-column: 1 / -1; max-width: none; font-weight: 600; position: static; }
  table.trends td.left { order: 1; } table.trends td.verdict { order: 2; text-align: right; }
  table.trends td.paper { order: 3; } table.trends td.paper::before { content: "paper: "; }
  table.trends td.ours { order: 4; text-align: right; }
  table.trends td.interval { order: 5; grid-column: 1 / -1; } }
)css";

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

std::string head_of(const TextTable& grid) {
  std::string titles =
      "<tr><th class=\"label\" rowspan=\"2\">" + html_text(grid.label_head) + "</th>";
  std::string heads = "<tr>";
  for (const ColumnGroup& group : grid.groups) {
    titles += fmt::format("<th class=\"group\" colspan=\"{}\">{}</th>", group.heads.size(),
                          html_text(group.title));
    for (size_t c = 0; c < group.heads.size(); ++c) {
      heads +=
          fmt::format("<th{}>{}</th>", c == 0 ? " class=\"first\"" : "", html_text(group.heads[c]));
    }
  }
  return "<thead>" + titles + "</tr>\n" + heads + "</tr></thead>\n";
}

std::string to_html(const TextTable& grid) {
  std::string out = "<div class=\"scroll\"><table>\n" + head_of(grid) + "<tbody>\n";
  for (size_t r = 0; r < grid.labels.size(); ++r) {
    const bool rule = std::count(grid.rules.begin(), grid.rules.end(), r) > 0;
    out += fmt::format("<tr{}><td class=\"label\">{}</td>", rule ? " class=\"rule\"" : "",
                       html_text(grid.labels[r]));
    for (const ColumnGroup& group : grid.groups) {
      for (size_t c = 0; c < group.heads.size(); ++c) {
        const bool filled = r < group.rows.size() && c < group.rows[r].size();
        out += fmt::format("<td{}>{}</td>", c == 0 ? " class=\"first\"" : "",
                           filled ? html_text(group.rows[r][c]) : "");
      }
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
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
  out += to_html(value_table(report));
  out += trend_table(report);
  if (!report.texts.empty()) {
    out += "<h3>Predictions against the original model (KL in nats)</h3>\n";
    out += to_html(fidelity_table(report));
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
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>run_ablation</title>\n<style>";
  out += style;
  out += "</style>\n</head>\n<body>\n<main>\n<h1>";
  out += concat(title, "</h1>\n");
  if (!reports.empty() || figures.empty()) out += summary_section(summary);
  out += "<nav><ul>\n";
  for (const TableReport& report : reports) {
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", anchor_of(report),
                       html_text(heading(report)));
  }
  out += figure_links(figures) + "</ul></nav>\n";
  for (const TableReport& report : reports) out += section_of(report);
  out += figure_sections(figures);
  return out + "</main>\n</body>\n</html>\n";
}

}  // namespace cbq
