#include "experiments/summary.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/text_table.h"

namespace cbq {
namespace {

constexpr size_t line_width = 100;

std::string text_of(const OrderingCounts& counts) {
  std::string text = fmt::format("{} hold, {} refuted, {} not resolved", counts.holds,
                                 counts.refuted, counts.unresolved);
  if (counts.same > 0) text += fmt::format(", {} one cell here", counts.same);
  if (counts.open > 0) text += fmt::format(", {} without a value here", counts.open);
  return text;
}

nlohmann::json json_of(const OrderingCounts& counts) {
  return {{"holds", counts.holds},
          {"refuted", counts.refuted},
          {"not_resolved", counts.unresolved},
          {"same_cell", counts.same},
          {"open", counts.open}};
}

/// "Table 3c, gcide as C4: paper 14.23 (2 blocks) below 14.32 (4 blocks), here above by ...".
std::string refuted_text(const TableReport& report, const ReportText& text,
                         const std::string& granularity, const ReportRow& high,
                         const ReportRow& low, const TrendStep& step) {
  std::string where = fmt::format("Table {}, {}", report.spec.key, text.title);
  if (report.granularities.size() > 1) where += ", " + granularity;
  const std::string by = std::isfinite(step.change)
                             ? fmt::format("by {:.4f} ± {:.4f} nats", step.change, step.error)
                             : "without bound";
  return fmt::format("{}: the paper has {:.2f} for {}, below {:.2f} for {}; here it is above, {}",
                     where, low.paper.at(text.metric), low.label, high.paper.at(text.metric),
                     high.label, by);
}

/// The pairs of one table under one text and granularity.
class Pairs {
 public:
  Pairs(const TableReport& report, size_t granularity, const ReportText& text, Summary& summary)
      : report_(report), granularity_(granularity), text_(text), summary_(summary) {}

  void add_all() {
    for (size_t i = 0; i < report_.rows.size(); ++i) {
      for (size_t j = i + 1; j < report_.rows.size(); ++j) {
        const ReportRow& a = report_.rows[i];
        const ReportRow& b = report_.rows[j];
        if (!comparable(a, b)) continue;
        a.paper.at(text_.metric) > b.paper.at(text_.metric) ? add(a, b) : add(b, a);
      }
    }
  }

 private:
  /// Whether the paper orders them. Rows of different bits or models differ by more than what a
  /// table shows.
  bool comparable(const ReportRow& a, const ReportRow& b) const {
    const auto paper_a = a.paper.find(text_.metric), paper_b = b.paper.find(text_.metric);
    return a.bits == b.bits && a.group == b.group && paper_a != a.paper.end() &&
           paper_b != b.paper.end() && paper_a->second != paper_b->second;
  }
  /// The paper has `high` above `low`.
  void add(const ReportRow& high, const ReportRow& low) {
    const TrendStep step = judge_rows(high, low, granularity_, text_.metric, report_.texts);
    summary_.pairs.add(step.verdict);
    if (step.verdict != Verdict::disagree) return;
    summary_.refuted.push_back(
        refuted_text(report_, text_, report_.granularities[granularity_], high, low, step));
  }

  const TableReport& report_;
  size_t granularity_;
  const ReportText& text_;
  Summary& summary_;
};

}  // namespace

void OrderingCounts::add(Verdict verdict) {
  switch (verdict) {
    case Verdict::agree:
      ++holds;
      break;
    case Verdict::disagree:
      ++refuted;
      break;
    case Verdict::unresolved:
      ++unresolved;
      break;
    case Verdict::same:
      ++same;
      break;
    case Verdict::unjudged:
      ++open;
      break;
  }
}

Summary summarize(const std::vector<TableReport>& reports) {
  Summary summary;
  summary.tables = static_cast<int>(reports.size());
  for (const TableReport& report : reports) {
    for (size_t g = 0; g < report.granularities.size(); ++g) {
      for (const ReportText& text : report.texts) Pairs(report, g, text, summary).add_all();
    }
    for (const ReportTrend& trend : report.trends) {
      for (const std::vector<TrendStep>& steps : trend.steps) {
        for (const TrendStep& step : steps) summary.claims.add(step.verdict);
      }
    }
  }
  return summary;
}

std::vector<std::string> lines_of(const Summary& summary) {
  std::vector<std::string> lines = {
      fmt::format("pairwise orderings of the paper's perplexities ({} table{}): {}", summary.tables,
                  summary.tables == 1 ? "" : "s", text_of(summary.pairs)),
      fmt::format("steps of trends, under all their metrics: {}", text_of(summary.claims))};
  if (summary.pairs.judged() > 0) {
    lines.emplace_back(
        "if no two rows differed, chance alone would refute about 1 of 40 pairs and confirm as "
        "many");
  }
  return lines;
}

std::string to_terminal(const Summary& summary) {
  std::string out = "Summary\n";
  for (const std::string& line : lines_of(summary)) out += "  " + wrapped(line, line_width - 2, 4);
  for (const std::string& line : summary.refuted) {
    out += "  " + wrapped("refuted: " + line, line_width - 2, 4);
  }
  return out;
}

std::string to_markdown(const Summary& summary) {
  std::string out = "## Summary\n\n";
  for (const std::string& line : lines_of(summary)) out += concat("- ", line, "\n");
  for (const std::string& line : summary.refuted) out += concat("- refuted: ", line, "\n");
  return out;
}

nlohmann::json to_json(const Summary& summary) {
  return {{"tables", summary.tables},
          {"pairs", json_of(summary.pairs)},
          {"claims", json_of(summary.claims)},
          {"refuted", summary.refuted}};
}

}  // namespace cbq
