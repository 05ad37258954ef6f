#include "experiments/plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "tensor/error.h"

namespace cbq {
namespace {

struct MethodOfRow {
  MethodFile method;
  int wbits, abits;
};

/// What the settings of a row start from. Method and bits may be what the table varies.
MethodOfRow method_of_row(const TableSpec& table, const RowSpec& row, const std::string& bits,
                          const PlanOptions& options) {
  const auto [wbits, abits] = parse_bits(bits);
  const auto varied = [&](const char* name, const auto& otherwise) {
    nlohmann::json value = table.settings.value(name, nlohmann::json(otherwise));
    return row.settings.value(name, value).get<std::decay_t<decltype(otherwise)>>();
  };
  return {find_method(varied("method", options.method)), varied("wbits", wbits),
          varied("abits", abits)};
}

/// The rows that every table begins with.
std::vector<PlannedRow> orientation_rows(const std::vector<std::string>& bits) {
  std::vector<PlannedRow> rows;
  PlannedRow original;
  original.spec.name = "(original)";
  original.spec.label = "original model";
  original.spec.settings = {{"wbits", float_bits}, {"abits", float_bits}, {"reconstruct", "none"}};
  original.bits = "W16A16";
  original.orientation = true;
  rows.push_back(original);
  for (const std::string& b : bits) {
    PlannedRow nearest;
    nearest.spec.name = "(nearest " + b + ")";
    nearest.spec.label = bits.size() == 1 ? "nearest rounding" : "nearest rounding, " + b;
    nearest.spec.settings = {{"reconstruct", "none"}};
    nearest.bits = b;
    nearest.orientation = true;
    rows.push_back(nearest);
  }
  return rows;
}

class Planner {
 public:
  Planner(const PlanModel& model, const PlanOptions& options, const CellInputs& inputs)
      : model_(model), inputs_(inputs) {
    plan_.options = options;
  }

  void add_table(const TableSpec& table, const std::string& bits) {
    PlannedTable planned;
    planned.spec = table;
    std::vector<std::string> all_bits;
    for (const RowSpec& row : table.rows) {
      const std::string& b = row.bits.empty() ? bits : row.bits;
      if (std::find(all_bits.begin(), all_bits.end(), b) == all_bits.end()) all_bits.push_back(b);
    }
    planned.bits = all_bits.size() == 1 ? all_bits.front() : "per row";
    planned.rows = orientation_rows(all_bits);
    for (const RowSpec& row : table.rows) {
      PlannedRow next;
      next.spec = row;
      next.bits = row.bits.empty() ? bits : row.bits;
      planned.rows.push_back(next);
    }
    TableSpec none = table;  // orientation rows are the same in every table
    none.settings = nlohmann::json::object();
    for (PlannedRow& row : planned.rows) {
      try {
        fill(row.orientation ? none : table, row);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(
            message_of("table ", table.key, ": ", row.spec.label, ": ", error.what()));
      }
      find_same(planned, row);
    }
    plan_.tables.push_back(std::move(planned));
  }

  Plan take() { return std::move(plan_); }

 private:
  void fill(const TableSpec& table, PlannedRow& row) {
    const MethodOfRow of_row = method_of_row(table, row.spec, row.bits, plan_.options);
    row.missing = of_row.method.obstacle(of_row.wbits, of_row.abits);
    if (!row.missing.empty()) return;
    for (const GranularityChoice& granularity : plan_.options.granularities) {
      row.cells.emplace_back();
      for (int64_t seed = 0; seed < plan_.options.seeds; ++seed) {
        Settings settings =
            row_settings(table, row.spec, row.bits, granularity, seed, plan_.options);
        // --settings is for the rows below: "nearest rounding" stays what it says.
        if (row.orientation) settings.solver = "none";
        row.epochs = settings.reconstruct == "none" ? 0 : settings.epochs;
        row.missing = model_.obstacle ? model_.obstacle(settings) : "";
        if (!row.missing.empty()) {
          row.cells.clear();
          return;
        }
        row.cells.back().push_back(cell_of(settings));
      }
    }
  }

  size_t cell_of(const Settings& settings) {
    Cell cell = make_cell(settings, model_.blocks, plan_.options.work, inputs_);
    const auto [found, is_new] = index_.emplace(cell.key, plan_.cells.size());
    if (is_new) plan_.cells.push_back(std::move(cell));
    return found->second;
  }

  void find_same(const PlannedTable& table, PlannedRow& row) const {
    if (row.cells.empty() || row.orientation) return;
    for (const PlannedRow& earlier : table.rows) {
      if (&earlier == &row) return;
      if (earlier.cells != row.cells || earlier.orientation) continue;
      row.same_as = earlier.spec.name;
      const Settings& settings = plan_.cells[row.cells[0][0]].settings;
      row.because =
          settings.reconstruct != "none" && schedule_of(settings, model_.blocks).size() == 1
              ? concat("one window holds all ", model_.blocks, " blocks")
              : "the same settings on this model";
      return;
    }
  }

  const PlanModel& model_;
  const CellInputs& inputs_;
  Plan plan_;
  std::map<std::string, size_t> index_;  // key -> position in plan_.cells
};

}  // namespace

GranularityChoice parse_granularity(const std::string& name) {
  const WeightGranularity choice = weight_granularity_from_word(name);
  check(choice.name != "per_group" || choice.group_size > 0,
        "granularity: per_group needs the inputs per group here; write g64 or g128");
  std::string shown = name;
  std::replace(shown.begin(), shown.end(), '_', '-');
  return {shown, choice.name, choice.group_size};
}

Settings row_settings(const TableSpec& table, const RowSpec& row, const std::string& bits,
                      const GranularityChoice& granularity, int64_t seed,
                      const PlanOptions& options) {
  const MethodOfRow of_row = method_of_row(table, row, bits, options);
  Settings s = of_row.method.at(of_row.wbits, of_row.abits);
  s.granularity = granularity.granularity;
  s.group_size = granularity.group_size;
  s.epochs = options.epochs;
  s.seed = static_cast<uint64_t>(seed);
  apply_json(s, table.settings);
  apply_json(s, row.settings);
  check(s.epochs <= std::numeric_limits<int64_t>::max() / row.epochs_factor, "epochs: ", s.epochs,
        " times the row's epochs_factor ", row.epochs_factor, " is no number of epochs");
  s.epochs *= row.epochs_factor;
  apply_json(s, options.settings);
  if (!options.outliers.empty() && s.quantizes()) {
    s.preprocess =
        s.preprocess == "none" ? options.outliers : options.outliers + "+" + s.preprocess;
  }
  return s;
}

Plan make_plan(const std::vector<TableSpec>& tables, const PlanModel& model,
               const PlanOptions& options, const CellInputs& inputs) {
  for (const char* name : {"wbits", "abits", "method", "reconstruct"}) {
    check(!options.settings.contains(name), "--settings: ", name,
          " decides what a row is; use --bits or --method, or a table file of your own");
  }
  check(options.seeds >= 1, "seeds: ", options.seeds, "; expected at least 1");
  check(!options.granularities.empty(), "granularity: none given");
  Planner planner(model, options, inputs);
  for (const TableSpec& table : tables) {
    const bool fixed = std::all_of(table.rows.begin(), table.rows.end(),
                                   [](const RowSpec& row) { return !row.bits.empty(); });
    std::vector<std::string> bits = options.bits;
    if (bits.empty() || fixed) bits = {table.bits};
    for (const std::string& b : bits) planner.add_table(table, b);
  }
  return planner.take();
}

}  // namespace cbq
