#include "experiments/plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "cbq/method_parts.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "experiments/paper_models.h"
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
  return {find_method(varied("method", options.method.empty() ? table.method : options.method)),
          varied("wbits", wbits), varied("abits", abits)};
}

/// Why a method that the table names cannot be run: another program may have it, this one has not.
std::string missing_method(const TableSpec& table, const RowSpec& row) {
  if (table.paper_tables.empty()) return "";  // an axis names what the user wrote
  const nlohmann::json named =
      row.settings.value("method", table.settings.value("method", nlohmann::json()));
  if (!named.is_string()) return "";
  const std::string& name = named.get_ref<const std::string&>();
  const std::vector<std::string> names = method_names();
  const bool is_known =
      name.ends_with(".json") || std::find(names.begin(), names.end(), name) != names.end();
  return is_known ? "" : concat("method '", name, "' is not registered");
}

bool is_original(const PlannedRow& row) { return row.bits == "W16A16"; }

/// The rows that every table, or every group of one, begins with: the original model, unless the
/// table has it, and nearest rounding at each of the bits.
std::vector<PlannedRow> orientation_rows(const std::string& group,
                                         const std::vector<PlannedRow>& below) {
  std::vector<std::string> bits;
  bool has_original = false;
  for (const PlannedRow& row : below) {
    has_original = has_original || (is_original(row) && !group.empty());
    if (is_original(row) && !group.empty()) continue;
    if (std::find(bits.begin(), bits.end(), row.bits) == bits.end()) bits.push_back(row.bits);
  }
  std::vector<PlannedRow> rows;
  const std::string lead = group.empty() ? "" : group + " ";
  PlannedRow original;
  original.spec.group = group;
  original.spec.name = concat("(", lead, "original)");
  original.spec.label = lead + (group.empty() ? "original model" : "original");
  original.spec.settings = {{"wbits", float_bits}, {"abits", float_bits}, {"reconstruct", "none"}};
  original.bits = "W16A16";
  original.orientation = true;
  if (!has_original) rows.push_back(original);
  for (const std::string& b : bits) {
    PlannedRow nearest;
    nearest.spec.group = group;
    nearest.spec.name = concat("(", lead, "nearest ", b, ")");
    nearest.spec.label = group.empty()
                             ? (bits.size() == 1 ? "nearest rounding" : "nearest rounding, " + b)
                             : concat(lead, b, " nearest");
    nearest.spec.settings = {{"reconstruct", "none"}, {"rotation", "none"}};
    nearest.bits = b;
    nearest.orientation = true;
    rows.push_back(nearest);
  }
  return rows;
}

/// --settings is for the rows below: "nearest rounding" and "original model" stay what they say.
void leave_orientation(Settings& settings) {
  settings.solver = settings.transform = settings.rotation = "none";
  settings.polish_epochs = 0;
}

/// The tokens with which the paper calibrates: 128 segments of 2,048.
constexpr double paper_tokens = 128.0 * 2048.0;

/// Windows of the paper's model over those of the model at hand.
double window_ratio(const Settings& settings, int64_t target, int64_t blocks) {
  const double by_blocks = static_cast<double>(target) / static_cast<double>(blocks);
  if (!settings.reconstructs()) return by_blocks;
  try {
    return static_cast<double>(schedule_of(settings, target).size()) /
           static_cast<double>(schedule_of(settings, blocks).size());
  } catch (const std::invalid_argument&) {  // written for the blocks at hand
    return by_blocks;
  }
}

class Planner {
 public:
  Planner(const std::vector<NamedModel>& named, const std::vector<PlanModel>& models,
          const PlanOptions& options)
      : named_(named), models_(models) {
    plan_.options = options;
  }

  void add_table(const TableSpec& table, const std::string& bits) {
    groups_ = models_of_groups(table, named_, models_.front().family);
    PlannedTable planned;
    planned.spec = table;
    std::vector<PlannedRow> rows;
    for (const RowSpec& row : table.rows) {
      PlannedRow next;
      next.spec = row;
      next.bits = row.bits.empty() ? bits : row.bits;
      rows.push_back(next);
    }
    if (table.kind != TableKind::components) planned.bits = common_bits(rows);
    planned.rows = table.kind == TableKind::settings ? in_groups(rows) : rows;
    needs_tasks_ = std::any_of(table.columns.begin(), table.columns.end(), [&](const auto& c) {
      const auto& served = plan_.options.task_metrics;
      return std::find(served.begin(), served.end(), c) != served.end();
    });
    TableSpec none = table;  // orientation rows are the same in every table
    none.settings = nlohmann::json::object();
    for (PlannedRow& row : planned.rows) {
      try {
        fill(row.orientation ? none : table, row);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(
            message_of("table ", table.key, ": ", row.spec.label, ": ", error.what()));
      }
      if (table.kind != TableKind::hours) find_same(planned, row);
    }
    describe_models(planned);
    plan_.tables.push_back(std::move(planned));
  }

  Plan take() { return std::move(plan_); }

 private:
  static std::string common_bits(const std::vector<PlannedRow>& rows) {
    std::string bits;
    for (const PlannedRow& row : rows) {
      if (is_original(row) && rows.size() > 1 && !row.spec.group.empty()) continue;
      if (!bits.empty() && row.bits != bits) return "per row";
      bits = row.bits;
    }
    return bits;
  }

  const GroupModel* group_of(const PlannedRow& row) const {
    if (groups_.size() == 1 && groups_.front().group.empty()) return &groups_.front();
    for (const GroupModel& group : groups_) {
      if (group.group == row.spec.group) return &group;
    }
    return nullptr;
  }

  /// The rows group by group, each with its orientation where its model is at hand.
  std::vector<PlannedRow> in_groups(const std::vector<PlannedRow>& rows) const {
    std::vector<PlannedRow> all;
    for (const GroupModel& group : groups_) {
      std::vector<PlannedRow> below;
      for (const PlannedRow& row : rows) {
        if (group.group.empty() || row.spec.group == group.group) below.push_back(row);
      }
      if (group.model) {
        for (PlannedRow& row : orientation_rows(group.group, below)) all.push_back(std::move(row));
      }
      all.insert(all.end(), below.begin(), below.end());
    }
    return all;
  }

  void fill(const TableSpec& table, PlannedRow& row) {
    row.missing = missing_method(table, row.spec);
    if (table.kind == TableKind::components) {
      if (!row.missing.empty()) return;
      for (const auto& [component, has] : components_of(find_method(row.spec.settings["method"]))) {
        row.known[component] = has ? 1.0 : 0.0;
      }
      return;
    }
    const GroupModel* group = group_of(row);
    if (group == nullptr) {
      row.missing = "the paper has no model of this size for the method";
      return;
    }
    row.at_hand = group->model.has_value();
    if (!row.at_hand) row.missing = group->group + " is not at hand";
    if (!row.missing.empty()) return;
    fill_cells(table, row, *group->model);
  }

  void fill_cells(const TableSpec& table, PlannedRow& row, size_t model_index) {
    const PlanModel& model = models_.at(model_index);
    const MethodOfRow of_row = method_of_row(table, row.spec, row.bits, plan_.options);
    row.missing = of_row.method.obstacle(of_row.wbits, of_row.abits);
    if (!row.missing.empty()) return;
    for (const GranularityChoice& granularity : plan_.options.granularities) {
      row.cells.emplace_back();
      for (int64_t seed = 0; seed < plan_.options.seeds; ++seed) {
        FittedMethod fitted = fitted_row(table, row.spec, row.bits, granularity, seed,
                                         plan_.options, model.setting_obstacle);
        Settings& settings = fitted.settings;
        row.note = fitted.note;
        if (row.orientation) leave_orientation(settings);
        row.epochs = settings.reconstructs() ? settings.epochs : 0;
        row.missing = model.obstacle ? model.obstacle(settings) : "";
        if (table.kind == TableKind::hours && settings.polishes()) {
          row.missing = "hours of a last stage are not extrapolated (polish_epochs)";
        }
        if (!row.missing.empty()) {
          row.cells.clear();
          return;
        }
        const int64_t steps = steps_of(settings);
        check(row.epochs <= std::numeric_limits<int64_t>::max() / std::max<int64_t>(1, steps),
              "table ", table.key, ", row ", row.spec.name, ": ", row.epochs,
              " epochs are too many");
        row.iterations = row.epochs * steps;
        row.cells.back().push_back(cell_of(settings, model_index));
        if (table.kind == TableKind::hours) {
          const int64_t own = method_settings(settings.method, of_row.wbits, of_row.abits).epochs;
          row.time_factor = time_factor(settings, own, *find_paper_model(row.spec.group), model);
        }
      }
    }
  }

  /// Steps of a window in one pass.
  int64_t steps_of(const Settings& settings) const {
    const int64_t batch = std::max<int64_t>(1, settings.batch);
    return (plan_.options.calibration_segments + batch - 1) / batch;
  }

  /// Hours of the paper's model over those of the model at hand, if time grows as the number of
  /// windows, the weights of a block, and the tokens and epochs of a window.
  double time_factor(const Settings& settings, int64_t own_epochs, const PaperModel& target,
                     const PlanModel& model) const {
    double factor =
        window_ratio(settings, target.blocks, model.blocks) * paper_tokens /
        static_cast<double>(std::max<int64_t>(1, plan_.options.work.calibration_tokens));
    if (model.block_weights > 0) {
      factor *=
          static_cast<double>(target.block_weights()) / static_cast<double>(model.block_weights);
    }
    if (settings.reconstructs()) {
      check(settings.epochs > 0, "a table of hours needs epochs above 0 to extrapolate from");
      factor *= static_cast<double>(own_epochs) / static_cast<double>(settings.epochs);
    }
    return factor;
  }

  size_t cell_of(const Settings& settings, size_t model_index) {
    const PlanModel& model = models_[model_index];
    Cell cell = make_cell(settings, model.blocks, plan_.options.work, model.inputs);
    cell.model = model_index;
    if (model.block_weights > 0) cell.cost *= static_cast<double>(model.block_weights);
    const auto [found, is_new] = index_.emplace(cell.key, plan_.cells.size());
    if (is_new) plan_.cells.push_back(std::move(cell));
    Cell& planned = plan_.cells[found->second];
    if (needs_tasks_ && !planned.tasks) {
      planned.tasks = true;
      const double weights = static_cast<double>(std::max<int64_t>(1, model.block_weights));
      planned.cost += weights * static_cast<double>(plan_.options.task_tokens * model.blocks);
    }
    return found->second;
  }

  void find_same(const PlannedTable& table, PlannedRow& row) const {
    if (row.cells.empty() || row.orientation) return;
    const Cell& cell = plan_.cells[row.cells[0][0]];
    const int64_t blocks = models_[cell.model].blocks;
    for (const PlannedRow& earlier : table.rows) {
      if (&earlier == &row) return;
      if (earlier.cells != row.cells || earlier.orientation) continue;
      row.same_as = earlier.spec.name;
      const Settings& settings = cell.settings;
      row.because = settings.reconstructs() && schedule_of(settings, blocks).size() == 1
                        ? concat("one window holds all ", blocks, " blocks")
                        : "the same settings on this model";
      return;
    }
  }

  void describe_models(PlannedTable& table) const {
    for (const PlannedRow& row : table.rows) {
      for (const std::vector<size_t>& seeds : row.cells) {
        for (const size_t i : seeds) {
          const size_t model = plan_.cells[i].model;
          std::vector<size_t>& all = table.models;
          if (std::find(all.begin(), all.end(), model) == all.end()) all.push_back(model);
        }
      }
    }
    for (const PlannedRow& row : table.rows) {
      if (!row.note.empty()) table.remarks.push_back(concat(row.spec.label, ": ", row.note));
    }
    if (table.spec.models.empty() || table.spec.kind == TableKind::components) return;
    for (std::string& remark : remarks_on_models()) table.remarks.push_back(std::move(remark));
    // A step between rows that nobody can run says nothing about this run.
    std::erase_if(table.spec.trends, [&](const TrendSpec& trend) {
      return std::any_of(table.rows.begin(), table.rows.end(), [&](const PlannedRow& row) {
        const auto& names = trend.rows;
        return !row.at_hand && std::find(names.begin(), names.end(), row.spec.name) != names.end();
      });
    });
  }

  /// Which model stands for which groups, and which groups have none.
  std::vector<std::string> remarks_on_models() const {
    std::vector<std::pair<std::string, std::string>> lines;  // groups, what stands for them
    std::string missing;
    for (const GroupModel& group : groups_) {
      if (!group.model) {
        missing += (missing.empty() ? "" : ", ") + group.group;
        continue;
      }
      std::string what = models_[*group.model].name;
      if (group.how == GroupModel::How::by_family) what += ", the model of the family, stands here";
      if (group.how == GroupModel::How::by_default) {
        what += ", the default model, stands here; --models NAME=FOLDER names another";
      }
      if (!lines.empty() && lines.back().second == what) {
        lines.back().first += ", " + group.group;
      } else {
        lines.emplace_back(group.group, what);
      }
    }
    std::vector<std::string> remarks;
    for (const auto& [groups, what] : lines) remarks.push_back(concat(groups, ": ", what));
    if (!missing.empty()) {
      remarks.push_back(concat("not at hand: ", missing, "; --models NAME=FOLDER, or ",
                               "FAMILY=FOLDER (llama, opt, bloom), runs their rows"));
    }
    return remarks;
  }

  const std::vector<NamedModel>& named_;
  const std::vector<PlanModel>& models_;
  std::vector<GroupModel> groups_;  // of the table at hand
  bool needs_tasks_ = false;        // the table at hand
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

FittedMethod fitted_row(const TableSpec& table, const RowSpec& row, const std::string& bits,
                        const GranularityChoice& granularity, int64_t seed,
                        const PlanOptions& options, const FindObstacle& find_obstacle) {
  const MethodOfRow of_row = method_of_row(table, row, bits, options);
  const auto change = [&](Settings& s) {
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
  };
  const auto is_named = [&](const std::string& name) {
    return table.settings.contains(name) || row.settings.contains(name) ||
           options.settings.contains(name);
  };
  FittedMethod fitted =
      fit_method(of_row.method, of_row.wbits, of_row.abits, {change, is_named}, find_obstacle);
  Settings& s = fitted.settings;
  if (!options.outliers.empty() && s.quantizes()) {
    s.preprocess =
        s.preprocess == "none" ? options.outliers : options.outliers + "+" + s.preprocess;
  }
  return fitted;
}

Settings row_settings(const TableSpec& table, const RowSpec& row, const std::string& bits,
                      const GranularityChoice& granularity, int64_t seed,
                      const PlanOptions& options) {
  return fitted_row(table, row, bits, granularity, seed, options, nullptr).settings;
}

Plan make_plan(const std::vector<TableSpec>& tables, const std::vector<NamedModel>& named,
               const std::vector<PlanModel>& models, const PlanOptions& options) {
  for (const char* name : {"wbits", "abits", "method", "reconstruct"}) {
    check(!options.settings.contains(name), "--settings: ", name,
          " decides what a row is; use --bits or --method, or a table file of your own");
  }
  check(options.seeds >= 1, "seeds: ", options.seeds, "; expected at least 1");
  check(!options.granularities.empty(), "granularity: none given");
  Planner planner(named, models, options);
  for (const TableSpec& table : tables) {
    const bool fixed = table.kind == TableKind::components ||
                       std::all_of(table.rows.begin(), table.rows.end(),
                                   [](const RowSpec& row) { return !row.bits.empty(); });
    std::vector<std::string> bits = options.bits;
    if (bits.empty() || fixed) bits = {table.bits};
    for (const std::string& b : bits) planner.add_table(table, b);
  }
  return planner.take();
}

Plan make_plan(const std::vector<TableSpec>& tables, const PlanModel& model,
               const PlanOptions& options, const CellInputs& inputs) {
  PlanModel only = model;
  only.inputs = inputs;
  return make_plan(tables, {}, {only}, options);
}

}  // namespace cbq
