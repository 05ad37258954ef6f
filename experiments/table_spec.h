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

/// Columns a table can have beside the perplexities of the two texts, and what trends speak of.
/// Names as in the paper's data: c4_ppl, wikitext2_ppl, gpu_memory_gb, time_hours, epochs.
const std::vector<std::string>& metric_names();

struct RowSpec {
  std::string name;   // short and unique in its table; trends refer to it
  std::string label;  // at most 30 characters
  nlohmann::json settings = nlohmann::json::object();  // over the table's (names of cbq/settings.h)
  std::string bits;                     // "W4A4" where the row fixes them; else the table's
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

struct TableSpec {
  std::string key;  // "3b": on the command line
  std::string title;
  std::vector<std::string> paper_tables;  // "iclr.3b"; empty for an axis of our own
  std::string paper_model, paper_bits, paper_note;
  std::string bits = "W2A16";        // ours, unless the command line says otherwise
  std::vector<std::string> axis;     // settings that vary, for the reader
  std::vector<std::string> columns;  // of metric_names(), beside the perplexities
  std::string note;
  nlohmann::json settings = nlohmann::json::object();  // of all rows, over the method's
  std::vector<RowSpec> rows;
  std::vector<TrendSpec> trends;

  /// nullptr if there is none.
  const RowSpec* find_row(const std::string& name) const;
};

/// {2, 16} for "W2A16". Throws std::invalid_argument with an example.
std::pair<int, int> parse_bits(const std::string& text);

/// Throws std::runtime_error naming `what` (the file) and the field: unknown or missing fields,
/// wrong types, settings that do not exist, two rows of one name, trends about unknown rows.
TableSpec parse_table(const nlohmann::json& json, const std::string& what);
/// Every *.json of the folder, in the paper's order (3a, 3b, ..., 12).
/// Throws std::runtime_error if there is none, or two of one key.
std::vector<TableSpec> load_tables(const std::filesystem::path& folder);
/// "3b,3c" or "all". Throws std::invalid_argument with the known keys.
std::vector<TableSpec> select_tables(const std::vector<TableSpec>& all, const std::string& keys);

/// A table of our own along one setting: a row per value, `values` given or known for `setting`
/// (every registered rounding scheme; schedules for a model of `blocks`). Throws
/// std::invalid_argument for an unknown setting, or one without known values when none are given.
TableSpec axis_table(const std::string& setting, const std::vector<std::string>& values,
                     int64_t blocks);

}  // namespace cbq
