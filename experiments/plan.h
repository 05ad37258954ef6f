// From tables to cells: which settings every row means under the budget at hand, and which rows of
// all tables are one and the same cell.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cbq/method_fit.h"
#include "experiments/cell.h"
#include "experiments/model_groups.h"
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
  std::string method;             // of cbq/methods, or a file; "": each table's own
  std::vector<std::string> bits;  // empty: each table's own
  std::vector<GranularityChoice> granularities = {GranularityChoice{}};
  int64_t epochs = 2;
  int64_t seeds = 1;
  CellWork work;  // only for the remaining time, and for hours that are extrapolated
  int64_t calibration_segments = 0;
  std::vector<std::string> task_metrics;  // accuracies for which there are data
  int64_t task_tokens = 0;                // that a model reads for them, about
  std::string outliers;  // stage put in front of every pre-processing ("outliers:4x30"); "": none
  nlohmann::json settings = nlohmann::json::object();  // over everything
};

/// What of the model decides whether two rows differ.
struct PlanModel {
  int64_t blocks = 0;
  /// Why these settings cannot be run here ("" if they can): an unknown preprocessor. Throws
  /// std::invalid_argument for impossible ones.
  std::function<std::string(const Settings&)> obstacle;
  FindObstacle setting_obstacle = {};  // for methods that name another in their place
  std::string name = {};               // in reports: its folder
  std::string family = "llama";        // ModelConfig::model_type
  int64_t block_weights = 0;           // of one block's linear layers; 0: not known
  CellInputs inputs = {};              // identity of its cells
};

struct PlannedRow {
  RowSpec spec;
  std::string bits;
  bool orientation = false;  // the original model, nearest rounding
  int64_t epochs = 0, iterations = 0;
  bool at_hand = true;                     // whether there is a model of its group
  std::string missing;                     // why it cannot be run; then there are no cells
  std::map<std::string, double> known;     // what it has without a run: components of a method
  double time_factor = 1.0;                // hours of the paper's model over those of its cells
  std::string same_as;                     // name of an earlier row that is the same cell, ...
  std::string because;                     // ... and why
  std::string note;                        // of fit_method
  std::vector<std::vector<size_t>> cells;  // [granularity][seed] -> Plan::cells
};

struct PlannedTable {
  TableSpec spec;
  std::string bits;  // "W2A16", or "per row"; "" where nothing is run
  std::vector<PlannedRow> rows;
  std::vector<size_t> models;        // that its cells are of
  std::vector<std::string> remarks;  // which model stands for which group
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

/// row_settings for a run that cannot have what `find_obstacle` finds (cbq/method_fit.h).
FittedMethod fitted_row(const TableSpec& table, const RowSpec& row, const std::string& bits,
                        const GranularityChoice& granularity, int64_t seed,
                        const PlanOptions& options, const FindObstacle& find_obstacle);

/// models[0] is the default one, models[i + 1] that of named[i]; those that no table uses may be
/// empty. Rows of groups without a model are in the plan without cells, and so are rows whose
/// method is not registered. Throws std::invalid_argument, naming table and row, for settings that
/// cannot be.
Plan make_plan(const std::vector<TableSpec>& tables, const std::vector<NamedModel>& named,
               const std::vector<PlanModel>& models, const PlanOptions& options);
/// The same with the default model alone.
Plan make_plan(const std::vector<TableSpec>& tables, const PlanModel& model,
               const PlanOptions& options, const CellInputs& inputs);

}  // namespace cbq
