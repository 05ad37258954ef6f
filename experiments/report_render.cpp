// A report as text (experiments/report.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "experiments/report.h"
#include "experiments/text_table.h"
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

/// A mark of methods rather than something measured: a column of components_of.
bool is_component(const std::string& metric) {
  return metric.starts_with("quantize_") || metric.ends_with("_handling") ||
         metric == "gradient_based" || metric == "cross_block_dependency";
}

/// In a unit that suits the size: the paper's gigabytes and hours are our megabytes and seconds.
std::string with_unit(const std::string& metric, double value) {
  if (metric == "gpu_memory_gb") {
    return value < 1.0 ? fmt::format("{:.1f} MB", value * 1000) : fmt::format("{:.1f} GB", value);
  }
  if (metric == "time_hours") {
    return value < 0.5 ? fmt::format("{:.1f} s", value * 3600) : fmt::format("{:.2f} h", value);
  }
  if (metric == "epochs" || metric == "iterations") return fmt::format("{:.0f}", value);
  if (metric == "window_seconds") return fmt::format("{:.3g} s", value);
  if (is_component(metric)) return value != 0.0 ? "yes" : "no";
  return number(value);
}

std::string ours_text(const ReportRow& row, size_t granularity, const std::string& metric) {
  if (granularity >= row.ours.size()) return "-";
  const auto found = row.ours[granularity].find(metric);
  const bool is_score = is_task_metric(metric) || is_component(metric);
  if (found == row.ours[granularity].end() || found->second.seeds == 0) {
    return is_task_metric(metric) ? "no data" : "-";
  }
  if (found->second.mean == 0.0 && !is_score)
    return "-";  // the original model needs no time and no epochs
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
  if (metric == "time_hours") {
    return report.spec.kind == TableKind::hours ? "time, extrapolated" : "time";
  }
  if (metric == "window_seconds") return "measured per window";
  std::string title = metric;
  if (is_component(metric)) std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

std::vector<std::string> printed_metrics(const TableReport& report) {
  std::vector<std::string> metrics;
  for (const ReportText& text : report.texts) {
    if (report.spec.kind == TableKind::settings) metrics.push_back(text.metric);
  }
  metrics.insert(metrics.end(), report.spec.columns.begin(), report.spec.columns.end());
  return metrics;
}

/// A grid with a label for every row of the table, and no columns yet.
TextTable table_of_rows(const TableReport& report) {
  TextTable grid;
  grid.label_head = "row";
  for (size_t r = 0; r < report.rows.size(); ++r) {
    const ReportRow& row = report.rows[r];
    const bool begins_group =
        r > 0 && report.rows[r - 1].group != row.group && report.spec.kind == TableKind::settings;
    if (begins_group || (r > 0 && report.rows[r - 1].orientation && !row.orientation)) {
      grid.rules.push_back(r);
    }
    grid.labels.push_back(row.same_as.empty() ? row.label : concat("= ", row.label));
  }
  return grid;
}

/// Three digits that tell something; a KL of a good model is a few thousandths of a nat.
std::string divergence_text(double kl) {
  if (!std::isfinite(kl) || kl >= 100.0) return number(kl);
  if (kl == 0.0) return "0";
  const int decimals = 2 - static_cast<int>(std::floor(std::log10(std::abs(kl))));
  return fmt::format("{:.{}f}", kl, std::clamp(decimals, 0, 6));
}

std::vector<std::string> fidelity_texts(const ReportRow& row, size_t granularity,
                                        const ReportText& text) {
  if (granularity >= row.ours.size() || row.ours[granularity].empty()) return {"-", "-", "-"};
  const auto value = [&](const char* quantity) {
    const auto found = row.ours[granularity].find(text.metric_of(quantity));
    return found == row.ours[granularity].end() ? Measured{} : found->second;
  };
  if (value("kl").seeds == 0) return {"-", "-", "-"};
  return {divergence_text(value("kl").mean), divergence_text(value("kl_p99").mean),
          fmt::format("{:.1f} %", 100.0 * value("top1").mean)};
}

/// "-0.0142±0.0031": a difference in nats and its standard error, as many digits as that needs.
std::string difference_text(const TrendStep& step) {
  if (!std::isfinite(step.change)) return step.change > 0.0 ? "+inf" : "-inf";
  const int digits = step.error >= 0.0095 ? 3 : 4;
  if (std::abs(step.change) < 0.5 * std::pow(10.0, -digits)) {  // no "-0.0000"
    return fmt::format("{:.{}f}±{:.{}f}", 0.0, digits, step.error, digits);
  }
  return fmt::format("{:+.{}f}±{:.{}f}", step.change, digits, step.error, digits);
}

bool is_difference(const TrendStep& step) {
  return step.error > 0.0 && step.verdict != Verdict::same;
}

}  // namespace

TextTable value_table(const TableReport& report) {
  TextTable grid = table_of_rows(report);
  for (const std::string& metric : printed_metrics(report)) {
    ColumnGroup group;
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

TextTable fidelity_table(const TableReport& report) {
  TextTable grid = table_of_rows(report);
  for (const ReportText& text : report.texts) {
    for (size_t g = 0; g < report.granularities.size(); ++g) {
      ColumnGroup group;
      group.title = text.name + " against the original";
      if (report.granularities.size() > 1) group.title += ", " + report.granularities[g];
      group.heads = {"KL", "KL 99 %", "top-1"};
      for (const ReportRow& row : report.rows) {
        group.rows.push_back(fidelity_texts(row, g, text));
      }
      grid.groups.push_back(std::move(group));
    }
  }
  return grid;
}

namespace {

std::vector<std::string> metrics_of(const ReportTrend& trend) {
  std::vector<std::string> metrics;
  for (const TrendStep& step : trend.steps.front()) metrics.push_back(step.metric);
  return metrics;
}

/// The trends that are judged by `metrics`.
TextTable trend_table(const TableReport& report, const std::vector<std::string>& metrics) {
  TextTable grid;
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
      ColumnGroup group;
      group.title = title_of(report, metrics[m]);
      if (report.granularities.size() > 1) group.title += ", " + report.granularities[g];
      const bool of_losses = metrics[m].ends_with("_ppl");
      group.heads = {"paper", of_losses ? "ours, nats" : "ours", "verdict"};
      for (const ReportTrend* trend : lines) {
        group.rows.emplace_back();
        if (trend == nullptr) continue;
        const TrendStep& step = trend->steps[g][m];
        group.rows.back() = {name_of(step.paper),
                             is_difference(step) ? difference_text(step) : name_of(step.ours),
                             name_of(step.verdict)};
      }
      grid.groups.push_back(std::move(group));
    }
  }
  return grid;
}

/// What the intervals of this table are made of; "" where it has none.
std::string interval_remark(const TableReport& report) {
  const auto scored =
      std::find_if(report.rows.begin(), report.rows.end(), [](const ReportRow& row) {
        return !row.results.empty() && !row.results[0].empty() && !row.results[0][0].texts.empty();
      });
  if (scored == report.rows.end()) return "";
  const std::vector<CellResult>& seeds = scored->results[0];
  std::string text = "differences: mean ± standard error per token, judged by 95 % intervals over ";
  for (size_t t = 0; t < report.texts.size(); ++t) {
    const std::vector<int64_t>& documents = report.texts[t].documents;
    const size_t count = documents.empty()
                             ? seeds[0].texts[t].segment_tokens.size()
                             : std::set<int64_t>(documents.begin(), documents.end()).size();
    text += fmt::format("{}{} {} of {}", t > 0 ? ", " : "", count,
                        documents.empty() ? "segments" : "documents", report.texts[t].name);
  }
  text += seeds.size() > 1
              ? fmt::format(" and {} seeds", seeds.size())
              : "; one seed, so they do not hold what another seed would change (--seeds 3)";
  return text;
}

}  // namespace

std::vector<TextTable> trend_tables(const TableReport& report) {
  std::vector<std::vector<std::string>> kinds;
  for (const ReportTrend& trend : report.trends) {
    if (std::find(kinds.begin(), kinds.end(), metrics_of(trend)) == kinds.end()) {
      kinds.push_back(metrics_of(trend));
    }
  }
  std::vector<TextTable> grids;
  for (const auto& metrics : kinds) grids.push_back(trend_table(report, metrics));
  return grids;
}

std::string heading(const TableReport& report) {
  std::string text =
      report.spec.paper_tables.empty() ? report.spec.key : concat("Table ", report.spec.key);
  text += ": " + report.spec.title;
  if (report.spec.kind == TableKind::components) return text;
  text += " (" + report.bits;
  if (report.granularities.size() == 1) text += ", " + report.granularities.front();
  text += ")";
  if (!report.spec.paper_tables.empty()) {
    text += fmt::format("; paper: {}, {}", report.spec.paper_model, report.spec.paper_bits);
  }
  return text;
}

namespace {

/// Of a table of components: how many of the paper's marks ours are.
std::string mark_summary(const TableReport& report) {
  int agree = 0, all = 0;
  for (const ReportRow& row : report.rows) {
    if (row.ours.empty()) continue;
    for (const auto& [metric, paper] : row.paper) {
      const auto ours = row.ours.front().find(metric);
      if (ours == row.ours.front().end()) continue;
      ++all;
      agree += ours->second.mean == paper ? 1 : 0;
    }
  }
  return fmt::format("marks: {} of {} agree", agree, all);
}

}  // namespace

/// What a reader must know beside the numbers, one line each.
std::vector<std::string> remarks(const TableReport& report) {
  std::vector<std::string> lines;
  for (const ReportRow& row : report.rows) {
    if (!row.same_as.empty()) {
      lines.push_back(fmt::format("= {}: as {}; {}", row.label, row.same_as, row.because));
    }
  }
  lines.insert(lines.end(), report.remarks.begin(), report.remarks.end());
  for (const ReportRow& row : report.rows) {
    if (row.at_hand && !row.missing.empty())
      lines.push_back(fmt::format("missing: {}: {}", row.label, row.missing));
  }
  if (!report.spec.note.empty()) lines.push_back("note: " + report.spec.note);
  if (!report.spec.paper_note.empty()) lines.push_back("paper: " + report.spec.paper_note);
  for (const DoubtSpec& doubt : report.spec.doubts) lines.push_back("doubt: " + doubt.text());
  const bool has_bits = !report.spec.paper_bits.empty() && !report.bits.empty();
  if (has_bits && report.spec.kind == TableKind::settings &&
      report.spec.paper_bits != report.bits) {
    lines.push_back(fmt::format("the paper's values are {} ({}), ours {}: compare signs, not sizes",
                                report.spec.paper_model, report.spec.paper_bits, report.bits));
  }
  if (!report.trends.empty()) lines.push_back(sign_summary(report));
  if (report.spec.kind == TableKind::components) lines.push_back(mark_summary(report));
  const std::string intervals = report.trends.empty() ? "" : interval_remark(report);
  if (!intervals.empty()) lines.push_back(intervals);
  lines.insert(lines.end(), report.footnotes.begin(), report.footnotes.end());
  return lines;
}

std::string sign_summary(const TableReport& report) {
  std::map<Verdict, int> counts;
  for (const ReportTrend& trend : report.trends) {
    for (const std::vector<TrendStep>& steps : trend.steps) {
      for (const TrendStep& step : steps) ++counts[step.verdict];
    }
  }
  std::string text =
      fmt::format("signs: {} agree, {} disagree, {} not resolved", counts[Verdict::agree],
                  counts[Verdict::disagree], counts[Verdict::unresolved]);
  if (counts[Verdict::same] > 0) text += fmt::format(", {} same cell", counts[Verdict::same]);
  if (counts[Verdict::unjudged] > 0) text += fmt::format(", {} open", counts[Verdict::unjudged]);
  return text;
}

std::string to_terminal(const TableReport& report) {
  std::string out = wrapped(heading(report), width, 2) + "\n";
  out += to_terminal(value_table(report), width);
  if (!report.texts.empty()) out += concat("\n", to_terminal(fidelity_table(report), width));
  for (const TextTable& grid : trend_tables(report)) out += concat("\n", to_terminal(grid, width));
  out += "\n";
  for (const std::string& line : remarks(report)) {
    out += concat("  ", wrapped(line, width - 2, 4));
  }
  return out;
}

std::string to_markdown(const TableReport& report) {
  std::string out = concat("## ", heading(report), "\n\n", to_markdown(value_table(report)));
  if (!report.texts.empty()) out += concat("\n", to_markdown(fidelity_table(report)));
  for (const TextTable& grid : trend_tables(report)) out += concat("\n", to_markdown(grid));
  out += "\n";
  for (const std::string& line : remarks(report)) out += concat("- ", line, "\n");
  return out;
}

}  // namespace cbq
