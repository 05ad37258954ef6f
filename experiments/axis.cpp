// Tables of our own along one setting (experiments/table_spec.h, axis_table).
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/setting_values.h"
#include "cbq/settings.h"
#include "cbq/window.h"
#include "experiments/table_spec.h"
#include "nn/formats/unicode.h"
#include "quant/solvers/solver.h"
#include "tensor/error.h"

namespace cbq {
namespace {

struct AxisValue {
  std::string label, value;
};
using AxisValues = std::vector<AxisValue>;

AxisValues plain(const std::vector<std::string>& values) {
  AxisValues all;
  for (const std::string& value : values) all.push_back({value, value});
  return all;
}

/// Windows of `size` blocks, one block apart, that grow at the first blocks and shrink at the last:
/// "0,0-1,0-2,1-3,...,9-11,10-11,11" for size 3.
std::string widening_schedule(int64_t blocks, int64_t size) {
  std::string text;
  for (int64_t last = 0; last < blocks + size - 1; ++last) {
    const int64_t begin = std::max<int64_t>(0, last - size + 1), end = std::min(last, blocks - 1);
    text += concat(text.empty() ? "" : ",", begin);
    if (end > begin) text += concat("-", end);
  }
  return text;
}

AxisValues schedules(int64_t blocks) {
  const auto sliding = [blocks](int64_t size, int64_t overlap) {
    return to_string(sliding_windows(blocks, size, overlap));
  };
  AxisValues all = {{"one block", sliding(1, 0)}};
  if (blocks > 1) all.push_back({"2 blocks, overlap 1", sliding(2, 1)});
  if (blocks > 2) {
    all.push_back({"2, widening and narrowing", widening_schedule(blocks, 2)});
    all.push_back({"3 blocks, overlap 2", sliding(3, 2)});
  }
  if (blocks > 3) all.push_back({"3, widening and narrowing", widening_schedule(blocks, 3)});
  return all;
}

std::vector<std::string> solver_names() {
  std::vector<std::string> names = solvers().names();
  names.insert(names.begin(), "none");
  return names;
}

std::vector<std::string> transform_names() {
  std::vector<std::string> names = global_transforms().names();
  std::erase(names, "rotation");  // an axis of its own
  names.insert(names.begin(), "none");
  return names;
}

std::map<std::string, AxisValues> known_axes(int64_t blocks) {
  return {
      {"rounding", plain(values_of("rounding"))},
      {"solver", plain(solver_names())},
      {"schedule", schedules(blocks)},
      {"method", plain(method_names())},
      {"scale_search", plain(values_of("scale_search"))},
      {"scale_type", plain(values_of("scale_type"))},
      {"act_symmetric_form", plain(values_of("act_symmetric_form"))},
      {"grid", plain(values_of("grid"))},
      {"start", plain(values_of("start"))},
      {"hard_phase", plain({"0.0", "0.5", "1.0"})},
      {"l2", plain(values_of("l2"))},
      {"keep", plain(values_of("keep"))},
      {"rotation", plain({"none", "r1", "block64", "r1_r2", "r1_r2_r4"})},
      {"transform", plain(transform_names())},
      {"rounding_blocks", plain(values_of("rounding_blocks"))},
      {"optimizer", plain(values_of("optimizer"))},
      {"batch", plain({"1", "2", "4", "8"})},
  };
}

/// The value as JSON of the setting's own type: 3 for an integer, "log" for a text.
nlohmann::json typed(const std::string& setting, const std::string& value) {
  const nlohmann::json all = to_json(Settings{});
  const nlohmann::json& example = all.at(setting);
  check(is_utf8(value), "axis: ", setting, "=", value, " is not UTF-8 text");
  if (example.is_string()) return value;
  const nlohmann::json parsed = nlohmann::json::parse(value, nullptr, false);
  Settings trial;
  apply_json(trial, {{setting, parsed.is_discarded() ? nlohmann::json(value) : parsed}});
  return parsed;
}

}  // namespace

TableSpec axis_table(const std::string& setting, const std::vector<std::string>& values,
                     int64_t blocks) {
  const nlohmann::json all = to_json(Settings{});
  std::string names;
  for (const auto& [name, value] : all.items()) names += (names.empty() ? "" : ", ") + name;
  check(all.contains(setting), "axis: unknown setting '", setting, "'; known: ", names);
  AxisValues chosen = plain(values);
  if (chosen.empty()) {
    std::string with_values;
    for (auto& [name, known] : known_axes(blocks)) {
      with_values += (with_values.empty() ? "" : ", ") + name;
      if (setting == name) chosen = known;
    }
    check(!chosen.empty(), "axis: '", setting, "' needs values, as in --axis ", setting,
          "=1,2; without values: ", with_values);
  }
  TableSpec table;
  table.key = "axis-" + setting;
  table.title = "Along the setting '" + setting + "'";
  table.axis = {setting};
  table.columns = {"gpu_memory_gb", "time_hours"};
  if (setting == "rank") {  // nothing else reads it
    table.title += ", rounding by lora_rounding";
    table.settings = {{"rounding", "lora_rounding"}};
  }
  for (const auto& [label, value] : chosen) {
    RowSpec row;
    row.name = value;
    row.label = label.size() <= 30 ? label : label.substr(0, 27) + "...";
    row.settings = {{setting, typed(setting, value)}};
    check(table.find_row(value) == nullptr, "axis: value '", value, "' is given twice");
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace cbq
