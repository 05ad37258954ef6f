#include "cbq/method_parts.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cbq/global_transforms.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq {
namespace {

/// A model of enough blocks to show whether windows overlap.
constexpr int64_t example_blocks = 16;

Parameterization parameterization_of(const Settings& s) {
  return s.parameterization == "default"
             ? rounding_schemes().make(s.rounding)->default_parameterization()
             : parameterization_from_name(s.parameterization);
}

std::string transform_of(const Settings& s) {
  std::string all;
  const auto add = [&](const std::string& part) { all += (all.empty() ? "" : ", ") + part; };
  if (s.transform != "none") add(s.transform);
  if (s.rotation != "none") add("rotation " + s.rotation);
  if (s.preprocess != "none") add(s.preprocess);
  return all.empty() ? "-" : all;
}

std::string grid_of(const Settings& s) {
  const std::string sharing = s.group_size > 0 ? concat("groups of ", s.group_size) : s.granularity;
  return concat(s.symmetric ? "symmetric" : "asymmetric", ", ", sharing, ", ", s.scale_search);
}

std::string rounding_of(const Settings& s) {
  if (!s.reconstructs()) return s.solver == "none" ? "nearest" : "-";
  return parameterization_of(s) == Parameterization::low_rank
             ? concat(s.rounding, ", rank ", s.rank)
             : s.rounding;
}

std::string windows_of(const Settings& s) {
  if (!s.reconstructs()) return "-";
  if (widest_of_schedule(s.schedule)) return concat(s.schedule, ", ", s.window, " between");
  if (!s.schedule.empty()) return s.schedule;
  return s.window == 1 ? "1 block" : concat(s.window, " blocks, overlap ", s.overlap);
}

std::string loss_of(const Settings& s) {
  if (!s.reconstructs()) return "-";
  std::string text = s.l2_weight > 0.0 ? "L2" : "";
  if (s.kl_weight > 0.0) text += text.empty() ? "KL" : " + KL";
  return s.homologous ? text + ", homologous" : text;
}

std::string polish_of(const Settings& s) {
  if (!s.polishes()) return "-";
  std::string text =
      concat(s.polish_epochs, s.polish_epochs == 1 ? " pass: " : " passes: ", "scales");
  if (s.rate_polish_codes > 0.0) text += ", codes";
  if (s.rate_polish_norm > 0.0) text += ", norms";
  return text;
}

/// Of a model that the settings are possible for: a written schedule names its blocks.
int64_t example_blocks_of(const Settings& s) {
  const bool is_written = !s.schedule.empty() && !widest_of_schedule(s.schedule);
  return is_written ? blocks_of_schedule(s.schedule) : example_blocks;
}

bool has_overlap(const Settings& s) {
  std::map<int64_t, int> windows_of_block;
  for (const ScheduledWindow& w : schedule_of(s, example_blocks_of(s))) {
    for (int64_t b = w.window.first; b <= w.window.last(); ++b) ++windows_of_block[b];
  }
  return std::any_of(windows_of_block.begin(), windows_of_block.end(),
                     [](const auto& entry) { return entry.second > 1; });
}

/// Whether it is learned where weights are rounded to; weights that move themselves are not that.
bool learns_rounding(const Settings& s) {
  if (!s.reconstructs() || parameterization_of(s) == Parameterization::none) return false;
  const auto scheme = rounding_schemes().make(s.rounding);
  return scheme->math() == nullptr || !scheme->math()->v_in_weight_units;
}

}  // namespace

std::pair<int, int> example_bits(const MethodFile& method) {
  std::vector<std::pair<int, int>> tries = {{4, 4}, {4, float_bits}, {4, 8}};
  for (const int wbits : possible_bits()) {
    for (const int abits : possible_bits()) tries.emplace_back(wbits, abits);
  }
  return *std::find_if(tries.begin(), tries.end(), [&](const std::pair<int, int>& bits) {
    return method.obstacle(bits.first, bits.second).empty();
  });
}

std::vector<std::pair<std::string, std::string>> parts_of(const Settings& s) {
  return {{"transform", transform_of(s)},
          {"grid", grid_of(s)},
          {"solver", s.solver == "none" ? "-" : s.solver},
          {"rounding", rounding_of(s)},
          {"windows", windows_of(s)},
          {"loss", loss_of(s)},
          {"optimizer", s.reconstructs() ? s.optimizer : "-"},
          {"polish", polish_of(s)}};
}

std::vector<SlotSetting> slot_settings(const Settings& settings) {
  const nlohmann::json values = to_json(settings), standards = to_json(Settings{});
  std::vector<SlotSetting> all;
  visit_slotted_settings(settings, [&](const std::string& name, const auto&, const char*,
                                       SettingStage stage, SettingSlot slot) {
    if (stage == SettingStage::label) return;
    const bool is_read =
        stage != SettingStage::reconstruction || settings.reconstructs() || name == "reconstruct";
    if (is_read) all.push_back({slot, name, values.at(name), standards.at(name)});
  });
  std::stable_sort(all.begin(), all.end(),
                   [](const SlotSetting& a, const SlotSetting& b) { return a.slot < b.slot; });
  return all;
}

std::vector<std::pair<std::string, bool>> components_of(const MethodFile& method) {
  const auto [wbits, abits] = example_bits(method);
  const Settings s = method.at(wbits, abits);
  bool weights = s.reconstructs() && grid_schemes().make(s.grid)->handles_weight_outliers();
  bool activations = false;
  for (const auto& transform : global_transforms_of(s)) {
    weights = weights || transform->handles_weight_outliers();
    activations = activations || transform->handles_activation_outliers();
  }
  for (const auto& stage : parse_preprocessors(s.preprocess)) {
    weights = weights || stage->handles_weight_outliers();
    activations = activations || stage->handles_activation_outliers();
  }
  // The last stage learns the codes of all blocks together.
  const bool learns_all_blocks = s.polishes() && s.rate_polish_codes > 0.0;
  return {{"quantize_weight", method.wbits.low < float_bits},
          {"quantize_activation", method.abits.low < float_bits},
          {"gradient_based", s.reconstructs() || s.polishes()},
          {"cross_block_dependency", learns_all_blocks || (s.reconstructs() && has_overlap(s))},
          {"weight_outlier_handling", weights},
          {"activation_outlier_handling", activations},
          {"rounding_error_handling", learns_rounding(s)}};
}

}  // namespace cbq
