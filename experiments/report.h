// A finished table: our values beside the paper's, the sign of every trend, and under what budget.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "experiments/plan.h"
#include "experiments/text_table.h"
#include "experiments/trends.h"

namespace cbq {

/// A test text: the first one stands in the paper's C4 column, the second one in its WikiText-2
/// column, further ones have no counterpart.
struct ReportText {
  std::string name;
  std::string metric;  // first_text_ppl, second_text_ppl, or the name
  std::string title;   // "gcide as C4"
  /// The document of each segment; empty: not known, then every segment stands for itself.
  std::vector<int64_t> documents = {};

  /// The name of another quantity of this text: "c4_kl" for "kl" (kl, kl_p99, top1).
  std::string metric_of(const std::string& quantity) const;
};
/// `documents`: of each text; may be empty.
std::vector<ReportText> report_texts(const std::vector<std::string>& names,
                                     const std::vector<std::vector<int64_t>>& documents = {});

struct ReportRow {
  std::string name, label;
  std::string bits;
  bool orientation = false;
  bool at_hand = true;  // whether there is a model of its group
  std::string missing;  // why there is no value
  std::string group;
  double time_factor = 1.0;      // hours of the paper's model over those of the cells
  std::string same_as, because;  // label of the row that is the same cell
  std::map<std::string, double> paper;
  std::vector<std::map<std::string, Measured>> ours;  // [granularity], metric -> value
  std::vector<std::string> cells;                     // keys, seeds of a granularity together
  std::vector<std::vector<CellResult>> results;       // [granularity][seed]; none where missing
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
  std::vector<std::string> remarks;    // which model stands for which of the paper's
  std::vector<std::string> footnotes;  // model, texts, budget, version, device

  const ReportRow* find_row(const std::string& name) const;
};

/// The paired difference of the losses of `to` and `from` on text number `text`, in nats per token;
/// none where a row has no value.
std::optional<Estimate> loss_difference(const ReportRow& from, const ReportRow& to,
                                        size_t granularity, size_t text,
                                        const std::vector<ReportText>& texts);
/// judge() of two rows.
TrendStep judge_rows(const ReportRow& from, const ReportRow& to, size_t granularity,
                     const std::string& metric, const std::vector<ReportText>& texts);

/// `results` belong to plan.cells; a row with a cell that is not there yet has no value.
TableReport make_report(const PlannedTable& table, const Plan& plan,
                        const std::vector<std::optional<CellResult>>& results,
                        const std::vector<ReportText>& texts,
                        const std::vector<std::string>& footnotes);

/// Steps of all trends under all metrics by verdict: "signs: 7 agree, 1 disagrees, ...".
std::string sign_summary(const TableReport& report);

/// "Table 3c: Window and overlap ... (W2A16, per-channel); paper: LLaMA-7B, W4A4".
std::string heading(const TableReport& report);
/// What a reader must know beside the numbers, one line each.
std::vector<std::string> remarks(const TableReport& report);
/// The values, ours beside the paper's.
TextTable value_table(const TableReport& report);
/// Ours against the original model: KL, its 99th percentile, agreement on the likeliest token.
TextTable fidelity_table(const TableReport& report);
/// The trends: one grid for the perplexities, one for the memory, ...
std::vector<TextTable> trend_tables(const TableReport& report);

std::string to_terminal(const TableReport& report);
std::string to_markdown(const TableReport& report);
nlohmann::json to_json(const TableReport& report);

}  // namespace cbq
