// A finished table: our values beside the paper's, the sign of every trend, and under what budget.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "experiments/plan.h"
#include "experiments/trends.h"

namespace cbq {

/// A test text: the first one stands in the paper's C4 column, the second one in its WikiText-2
/// column, further ones have no counterpart.
struct ReportText {
  std::string name;
  std::string metric;  // c4_ppl, wikitext2_ppl, or the name
  std::string title;   // "gcide as C4"
};
std::vector<ReportText> report_texts(const std::vector<std::string>& names);

struct ReportRow {
  std::string name, label;
  bool orientation = false;
  std::string missing;           // why there is no value
  std::string same_as, because;  // label of the row that is the same cell
  std::map<std::string, double> paper;
  std::vector<std::map<std::string, Measured>> ours;  // [granularity], metric -> value
  std::vector<std::string> cells;                     // keys
  std::vector<std::string> notes;                     // of its cells
};

struct ReportTrend {
  std::string claim, from, to;                // from, to: names of rows
  bool chain = false;                         // one of several steps of a claim
  std::vector<std::vector<TrendStep>> steps;  // [granularity][metric]
};

struct TableReport {
  TableSpec spec;
  std::string bits;
  std::vector<std::string> granularities;
  std::vector<ReportText> texts;
  std::vector<ReportRow> rows;
  std::vector<ReportTrend> trends;
  std::vector<std::string> footnotes;  // model, texts, budget, version, device

  const ReportRow* find_row(const std::string& name) const;
};

/// `results` belong to plan.cells; a row with a cell that is not there yet has no value.
TableReport make_report(const PlannedTable& table, const Plan& plan,
                        const std::vector<std::optional<CellResult>>& results,
                        const std::vector<ReportText>& texts,
                        const std::vector<std::string>& footnotes);

/// Steps of all trends under all metrics by verdict: "signs: 7 agree, 1 disagrees, ...".
std::string sign_summary(const TableReport& report);

std::string to_terminal(const TableReport& report);
std::string to_markdown(const TableReport& report);
nlohmann::json to_json(const TableReport& report);

}  // namespace cbq
