// A table of the paper as data: which settings its rows vary, what the paper printed, and which of
// its orderings are worth checking. One file in experiments/tables/ is one table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace cbq {

/// The metrics of the first and the second test text. Their names in tables and reports are those
/// of the paper's columns, in which the two texts stand, whatever texts they are.
inline constexpr const char* first_text_ppl = "c4_ppl";
inline constexpr const char* second_text_ppl = "wikitext2_ppl";

/// Columns a table can have beside the perplexities of the two texts, and what trends speak of.
/// Names as in the paper's data: first_text_ppl, second_text_ppl, gpu_memory_gb (10^9 bytes),
/// time_hours, epochs, iterations; accuracies in percent (piqa_acc, mutual_mrr, ...:
/// experiments/task_columns.h); components of methods (components_of); and window_seconds, which is
/// ours alone.
const std::vector<std::string>& metric_names();

/// What the rows of a table are.
enum class TableKind {
  settings,    // runs, with perplexities of the texts
  components,  // marks of methods; nothing is run
  hours        // runs of the model at hand, their time extrapolated to the groups' sizes
};

struct RowSpec {
  std::string name;   // short and unique in its table; trends refer to it
  std::string label;  // at most 30 characters
  nlohmann::json settings = nlohmann::json::object();  // over the table's (names of cbq/settings.h)
  std::string bits;                     // "W4A4" where the row fixes them; else the table's
  std::string group;                    // one of TableSpec::models; "": the table's only model
  int64_t epochs_factor = 1;            // epochs of this row over those of the budget
  std::vector<std::string> source;      // "iclr.3b/4": table and row in the paper's data
  std::map<std::string, double> paper;  // metric -> what the paper printed; empty for our own rows
};

/// Rows in an order; each step of it is a question: does the value fall or rise, here and there?
struct TrendSpec {
  std::string claim;                 // at most 34 characters
  std::vector<std::string> rows;     // names, at least two
  std::vector<std::string> metrics;  // default: both perplexities
};

/// What a reader of the paper cannot be sure of: a digit, a label, or whether a value is right.
struct DoubtSpec {
  std::string where;  // as in the paper's data
  nlohmann::json kept;
  std::string other, why;
  /// "OPT-30B W4A4 cbq piqa_acc: 75.89, or 75.80 (the scan of v4 loses digits)".
  std::string text() const;
};

struct TableSpec {
  std::string key;  // "3b": on the command line; "v4.3", "v1.1" of the earlier versions
  std::string title;
  TableKind kind = TableKind::settings;
  std::vector<std::string> paper_tables;  // "iclr.3b"; empty for an axis of our own
  std::string paper_model, paper_bits, paper_note;
  std::string bits = "W2A16";  // ours, unless the command line says otherwise
  std::string method = "cbq";  // of rows that name none, unless the command line does
  /// The models over which its rows go (PaperModel::name), in order; empty: one model, any.
  std::vector<std::string> models;
  std::string accuracy = "acc_norm";  // or "acc": which of a task's two its columns show
  std::vector<std::string> axis;      // settings that vary, for the reader
  std::vector<std::string> columns;   // of metric_names(), beside the perplexities
  std::string note;
  nlohmann::json settings = nlohmann::json::object();  // of all rows, over the method's
  std::vector<RowSpec> rows;
  std::vector<TrendSpec> trends;
  std::vector<DoubtSpec> doubts;

  /// "iclr", "v4" or "v1": the version of the paper whose table it is.
  std::string version() const;
  /// nullptr if there is none.
  const RowSpec* find_row(const std::string& name) const;
};

/// {2, 16} for "W2A16". Throws std::invalid_argument with an example.
std::pair<int, int> parse_bits(const std::string& text);

/// Throws std::runtime_error naming `what` (the file) and the field: unknown or missing fields,
/// wrong types, settings that do not exist, two rows of one name, trends about unknown rows, groups
/// that are no model of the paper or not one of the table.
TableSpec parse_table(const nlohmann::json& json, const std::string& what);
/// Every *.json of the folder, in the paper's order: ICLR (1, 2, 3a, ..., 15), v4.3, ..., v1.8.
/// Throws std::runtime_error if there is none, or two of one key.
std::vector<TableSpec> load_tables(const std::filesystem::path& folder);
/// "3b,v4.3" or "all"; "iclr.3b" is "3b". Throws std::invalid_argument with the known keys.
std::vector<TableSpec> select_tables(const std::vector<TableSpec>& all, const std::string& keys);

/// A table of our own along one setting: a row per value, `values` given or known for `setting`
/// (every registered rounding scheme; schedules for a model of `blocks`). Throws
/// std::invalid_argument for an unknown setting, or one without known values when none are given.
TableSpec axis_table(const std::string& setting, const std::vector<std::string>& values,
                     int64_t blocks);

}  // namespace cbq
