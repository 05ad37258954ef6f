// From tables to cells: which settings every row means under the budget at hand, and which rows of
// all tables are one and the same cell.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/cell.h"
#include "experiments/table_spec.h"

namespace cbq {

/// Weights that share a scale.
struct GranularityChoice {
  std::string name = "per-channel";  // in reports
  std::string granularity = "per_channel";
  int64_t group_size = 0;
};
/// The words of weight_granularity_from_word, with the size of a group. Throws
/// std::invalid_argument with the known ones.
GranularityChoice parse_granularity(const std::string& name);

struct PlanOptions {
  std::string method = "cbq";     // of cbq/methods, or a file
  std::vector<std::string> bits;  // empty: each table's own
  std::vector<GranularityChoice> granularities = {GranularityChoice{}};
  int64_t epochs = 2;
  int64_t seeds = 1;
  CellWork work;         // only for the remaining time
  std::string outliers;  // stage put in front of every pre-processing ("outliers:4x30"); "": none
  nlohmann::json settings = nlohmann::json::object();  // over everything
};

/// What of the model decides whether two rows differ.
struct PlanModel {
  int64_t blocks = 0;
  /// Why these settings cannot be run here ("" if they can): an unknown preprocessor. Throws
  /// std::invalid_argument for impossible ones.
  std::function<std::string(const Settings&)> obstacle;
};

struct PlannedRow {
  RowSpec spec;
  std::string bits;
  bool orientation = false;  // the original model, nearest rounding
  int64_t epochs = 0;
  std::string missing;                     // why it cannot be run; then there are no cells
  std::string same_as;                     // name of an earlier row that is the same cell, ...
  std::string because;                     // ... and why
  std::vector<std::vector<size_t>> cells;  // [granularity][seed] -> Plan::cells
};

struct PlannedTable {
  TableSpec spec;
  std::string bits;  // "W2A16", or "per row"
  std::vector<PlannedRow> rows;
};

struct Plan {
  PlanOptions options;
  std::vector<PlannedTable> tables;
  std::vector<Cell> cells;  // each once, in the order in which they are first needed
};

/// Settings of a row: method at its bits, granularity, epochs of the budget, then what table, row
/// and command line say, in this order. Throws std::invalid_argument.
Settings row_settings(const TableSpec& table, const RowSpec& row, const std::string& bits,
                      const GranularityChoice& granularity, int64_t seed,
                      const PlanOptions& options);

/// Throws std::invalid_argument, naming table and row, for settings that cannot be.
Plan make_plan(const std::vector<TableSpec>& tables, const PlanModel& model,
               const PlanOptions& options, const CellInputs& inputs);

}  // namespace cbq
