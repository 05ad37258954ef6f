// A report as text (experiments/report.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/grid.h"
#include "experiments/report.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t width = 100;

std::string number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : "inf";
  if (std::abs(value) >= 1e6) return fmt::format("{:.2g}", value);
  if (std::abs(value) >= 1000) return fmt::format("{:.0f}", value);
  return fmt::format("{:.2f}", value);
}

/// In a unit that suits the size: the paper's gigabytes and hours are our megabytes and seconds.
std::string with_unit(const std::string& metric, double value) {
  if (metric == "gpu_memory_gb") {
    return value < 1.0 ? fmt::format("{:.1f} MB", value * 1024) : fmt::format("{:.1f} GB", value);
  }
  if (metric == "time_hours") {
    return value < 0.5 ? fmt::format("{:.1f} s", value * 3600) : fmt::format("{:.2f} h", value);
  }
  if (metric == "epochs") return fmt::format("{:.0f}", value);
  return number(value);
}

std::string ours_text(const ReportRow& row, size_t granularity, const std::string& metric) {
  if (granularity >= row.ours.size()) return "-";
  const auto found = row.ours[granularity].find(metric);
  if (found == row.ours[granularity].end() || found->second.seeds == 0) return "-";
  if (found->second.mean == 0.0) return "-";  // the original model needs no time and no epochs
  std::string text = with_unit(metric, found->second.mean);
  if (found->second.spread > 0.0 && metric.ends_with("_ppl")) {
    text += "±" + number(found->second.spread);
  }
  return text;
}

std::string paper_text(const ReportRow& row, const std::string& metric) {
  const auto found = row.paper.find(metric);
  return found == row.paper.end() ? "-" : with_unit(metric, found->second);
}

std::string title_of(const TableReport& report, const std::string& metric) {
  for (const ReportText& text : report.texts) {
    if (text.metric == metric) return text.title;
  }
  if (metric == "gpu_memory_gb") return "peak memory";
  if (metric == "time_hours") return "time";
  return metric;
}

std::vector<std::string> printed_metrics(const TableReport& report) {
  std::vector<std::string> metrics;
  for (const ReportText& text : report.texts) metrics.push_back(text.metric);
  metrics.insert(metrics.end(), report.spec.columns.begin(), report.spec.columns.end());
  return metrics;
}

Grid value_grid(const TableReport& report) {
  Grid grid;
  grid.label_head = "row";
  for (size_t r = 0; r < report.rows.size(); ++r) {
    const ReportRow& row = report.rows[r];
    if (r > 0 && report.rows[r - 1].orientation && !row.orientation) grid.rules.push_back(r);
    grid.labels.push_back(row.same_as.empty() ? row.label : concat("= ", row.label));
  }
  for (const std::string& metric : printed_metrics(report)) {
    GridGroup group;
    group.title = title_of(report, metric);
    group.heads = report.granularities;
    if (group.heads.size() == 1) group.heads = {"ours"};
    bool paper = false;
    for (const ReportRow& row : report.rows) paper = paper || row.paper.count(metric) > 0;
    if (paper) group.heads.push_back("paper");
    for (const ReportRow& row : report.rows) {
      group.rows.emplace_back();
      for (size_t g = 0; g < report.granularities.size(); ++g) {
        group.rows.back().push_back(ours_text(row, g, metric));
      }
      if (paper) group.rows.back().push_back(paper_text(row, metric));
    }
    grid.groups.push_back(std::move(group));
  }
  return grid;
}

std::vector<std::string> metrics_of(const ReportTrend& trend) {
  std::vector<std::string> metrics;
  for (const TrendStep& step : trend.steps.front()) metrics.push_back(step.metric);
  return metrics;
}

/// The trends that are judged by `metrics`.
Grid trend_grid(const TableReport& report, const std::vector<std::string>& metrics) {
  Grid grid;
  grid.label_head = "trend";
  std::vector<const ReportTrend*> lines;  // null: a claim whose steps follow
  const std::string* chain = nullptr;     // the claim whose steps are being listed
  for (const ReportTrend& trend : report.trends) {
    if (metrics_of(trend) != metrics) continue;
    if (trend.chain && (chain == nullptr || *chain != trend.claim)) {
      grid.labels.push_back(trend.claim);
      lines.push_back(nullptr);
    }
    chain = trend.chain ? &trend.claim : nullptr;
    grid.labels.push_back(trend.chain ? concat("  ", trend.from, " -> ", trend.to) : trend.claim);
    lines.push_back(&trend);
  }
  for (size_t g = 0; g < report.granularities.size(); ++g) {
    for (size_t m = 0; m < metrics.size(); ++m) {
      GridGroup group;
      group.title = title_of(report, metrics[m]);
      if (report.granularities.size() > 1) group.title += ", " + report.granularities[g];
      group.heads = {"paper", "ours", "verdict"};
      for (const ReportTrend* trend : lines) {
        group.rows.emplace_back();
        if (trend == nullptr) continue;
        const TrendStep& step = trend->steps[g][m];
        group.rows.back() = {name_of(step.paper), name_of(step.ours), name_of(step.verdict)};
      }
      grid.groups.push_back(std::move(group));
    }
  }
  return grid;
}

/// One grid for the perplexities, one for the memory, ...: each trend stands in one of them.
std::vector<Grid> trend_grids(const TableReport& report) {
  std::vector<std::vector<std::string>> kinds;
  for (const ReportTrend& trend : report.trends) {
    if (std::find(kinds.begin(), kinds.end(), metrics_of(trend)) == kinds.end()) {
      kinds.push_back(metrics_of(trend));
    }
  }
  std::vector<Grid> grids;
  for (const auto& metrics : kinds) grids.push_back(trend_grid(report, metrics));
  return grids;
}

std::string heading(const TableReport& report) {
  std::string text =
      report.spec.paper_tables.empty() ? report.spec.key : concat("Table ", report.spec.key);
  text += ": " + report.spec.title + " (" + report.bits;
  if (report.granularities.size() == 1) text += ", " + report.granularities.front();
  text += ")";
  if (!report.spec.paper_tables.empty()) {
    text += fmt::format("; paper: {}, {}", report.spec.paper_model, report.spec.paper_bits);
  }
  return text;
}

/// What a reader must know beside the numbers, one line each.
std::vector<std::string> remarks(const TableReport& report) {
  std::vector<std::string> lines;
  for (const ReportRow& row : report.rows) {
    if (!row.same_as.empty()) {
      lines.push_back(fmt::format("= {}: as {}; {}", row.label, row.same_as, row.because));
    }
  }
  for (const ReportRow& row : report.rows) {
    if (!row.missing.empty())
      lines.push_back(fmt::format("missing: {}: {}", row.label, row.missing));
  }
  if (!report.spec.note.empty()) lines.push_back("note: " + report.spec.note);
  if (!report.spec.paper_note.empty()) lines.push_back("paper: " + report.spec.paper_note);
  if (!report.spec.paper_bits.empty() && report.spec.paper_bits != report.bits) {
    lines.push_back(fmt::format("the paper's values are {} ({}), ours {}: compare signs, not sizes",
                                report.spec.paper_model, report.spec.paper_bits, report.bits));
  }
  if (!report.trends.empty()) lines.push_back(sign_summary(report));
  lines.insert(lines.end(), report.footnotes.begin(), report.footnotes.end());
  return lines;
}

}  // namespace

std::string sign_summary(const TableReport& report) {
  std::map<Verdict, int> counts;
  double least = 1e30, most = 0.0;
  for (const ReportTrend& trend : report.trends) {
    for (const std::vector<TrendStep>& steps : trend.steps) {
      for (const TrendStep& step : steps) {
        ++counts[step.verdict];
        if (!step.metric.ends_with("_ppl") || step.noise == 0.0) continue;
        least = std::min(least, step.noise);
        most = std::max(most, step.noise);
      }
    }
  }
  std::string text =
      fmt::format("signs: {} agree, {} disagree, {} in noise", counts[Verdict::agree],
                  counts[Verdict::disagree], counts[Verdict::noise]);
  if (counts[Verdict::same] > 0) text += fmt::format(", {} same cell", counts[Verdict::same]);
  if (counts[Verdict::unjudged] > 0) text += fmt::format(", {} open", counts[Verdict::unjudged]);
  if (most > 0.0 && least == most) {
    text += fmt::format(" (noise: below {:.3f} nats)", most);
  } else if (most > 0.0) {
    text +=
        fmt::format(" (noise: 2 standard errors over seeds, {:.3f} to {:.3f} nats)", least, most);
  }
  return text;
}

std::string to_terminal(const TableReport& report) {
  std::string out = wrapped(heading(report), width, 2) + "\n";
  out += to_terminal(value_grid(report), width);
  for (const Grid& grid : trend_grids(report)) out += concat("\n", to_terminal(grid, width));
  out += "\n";
  for (const std::string& line : remarks(report)) {
    out += concat("  ", wrapped(line, width - 2, 4));
  }
  return out;
}

std::string to_markdown(const TableReport& report) {
  std::string out = concat("## ", heading(report), "\n\n", to_markdown(value_grid(report)));
  for (const Grid& grid : trend_grids(report)) out += concat("\n", to_markdown(grid));
  out += "\n";
  for (const std::string& line : remarks(report)) out += concat("- ", line, "\n");
  return out;
}

}  // namespace cbq
