// Folders with "quant_method": "gptq" in both versions (cbq/exporters/gptq_tensors.h), as AutoGPTQ,
// GPTQModel, optimum and cbq/exporters/gptq.cpp write them.
#include <algorithm>
#include <optional>

#include "cbq/exporters/gptq_tensors.h"
#include "cbq/exporters/name_pattern.h"
#include "nn/formats/json.h"

using nlohmann::json;

namespace cbq {
namespace {

/// One entry of GPTQModel's "dynamic": layers with whose path the pattern matches from its begin.
struct DynamicRule {
  NamePattern pattern;
  bool leaves_out = false;  // "-:"
  json changes;             // of bits, group_size, sym
};

class GptqReader final : public LayoutReader {
 public:
  std::string method() const override { return "gptq"; }
  std::vector<std::string> code_parts() const override { return {"qweight"}; }
  std::vector<std::string> parts() const override {
    return {"qweight", "qzeros", "scales", "g_idx"};
  }

  void read_section(const json& section, const std::string& what) override;
  bool quantizes(const std::string& path) const override;
  LayerCodes codes_of(const LayerTensors& layer) const override;
  PackedWeight read(const LayerTensors& layer, const LayerCodes& codes) const override {
    return read_gptq_layer(layer, codes, stored_);
  }

 private:
  void read_version(const json& section);
  void read_dynamic(const json& rules);
  void read_modules(const json& modules);
  /// The grid that "dynamic" gives a layer. GPTQModel takes the first pattern of the file that
  /// matches; objects have no order here, so patterns that disagree are an error.
  GptqGrid grid_at(const std::string& path) const;
  /// Overwrites what `section` states.
  void update(GptqGrid& grid, const json& section, const std::string& what) const;

  std::string what_;
  GptqGrid grid_;
  StoredZero stored_ = StoredZero::minus_one;
  std::vector<DynamicRule> rules_;
  std::vector<std::string> modules_;  // below a block; empty: all
  bool act_order_ = false;
};

void GptqReader::update(GptqGrid& grid, const json& section, const std::string& what) const {
  const auto has = [&](const char* key) { return !json_find(section, key, what).is_null(); };
  if (has("bits")) grid.bits = static_cast<int>(json_int(section["bits"], "bits", what, 1, 16));
  if (has("group_size")) {
    grid.group_size = json_int(section["group_size"], "group_size", what, -1, 1 << 20);
  }
  if (has("sym")) grid.symmetric = json_bool(section["sym"], "sym", what);
}

void GptqReader::read_section(const json& section, const std::string& what) {
  what_ = what;
  json_at(section, "bits", what);
  update(grid_, section, what);
  read_version(section);
  if (const json& dtype = json_find(section, "pack_dtype", what);
      !dtype.is_null() && dtype != "int32") {
    refuse_field(what, "pack_dtype", dtype, "codes are read in words of int32");
  }
  if (const json& head = json_find(section, "lm_head", what); !head.is_null() && head != false) {
    refuse_field(what, "lm_head", head, "a quantized output head is not read");
  }
  if (const json& order = json_find(section, "desc_act", what); !order.is_null()) {
    act_order_ = json_bool(order, "desc_act", what);
  }
  read_dynamic(json_find(section, "dynamic", what));
  read_modules(json_find(section, "modules_in_block_to_quantize", what));
}

/// GPTQModel writes "checkpoint_format", its later versions "format", too; AutoGPTQ had neither.
void GptqReader::read_version(const json& section) {
  if (const json& marlin = json_find(section, "is_marlin_format", what_); marlin == true) {
    refuse_field(what_, "is_marlin_format", marlin, "weights packed for one kernel are not read");
  }
  const char* key =
      json_find(section, "checkpoint_format", what_).is_null() ? "format" : "checkpoint_format";
  const json& version = json_find(section, key, what_);
  if (version.is_null() || version == "gptq" || version == "") return;
  if (version != "gptq_v2") {
    refuse_field(what_, key, version, "the versions gptq and gptq_v2 are read");
  }
  stored_ = StoredZero::as_is;
}

void GptqReader::read_dynamic(const json& rules) {
  if (rules.is_null()) return;
  const std::string what = what_ + ", \"dynamic\"";
  if (!rules.is_object()) fail(what, ": expected an object of patterns");
  for (const auto& [key, changes] : rules.items()) {
    const bool leaves_out = key.starts_with("-:");
    const bool has_sign = leaves_out || key.starts_with("+:");
    rules_.push_back({NamePattern(has_sign ? key.substr(2) : key, what), leaves_out, changes});
    if (!leaves_out && !changes.is_object()) {
      fail(what, ", \"", key, "\": expected an object of settings");
    }
  }
}

/// [["self_attn.k_proj", ...], ...], in the order in which optimum quantizes.
void GptqReader::read_modules(const json& modules) {
  if (modules.is_null()) return;
  const std::string key = "modules_in_block_to_quantize";
  if (!modules.is_array()) fail(what_, ": \"", key, "\" must be a list of lists");
  for (const json& entry : modules) {
    for (const json& name : entry.is_array() ? entry : json::array({entry})) {
      modules_.push_back("." + json_string(name, key, what_));
    }
  }
}

GptqGrid GptqReader::grid_at(const std::string& path) const {
  std::optional<GptqGrid> grid;
  for (const DynamicRule& rule : rules_) {
    if (rule.leaves_out || !rule.pattern.begins(path)) continue;
    GptqGrid changed = grid_;
    update(changed, rule.changes, what_ + ", \"dynamic\"");
    if (grid && changed != *grid) {
      fail(what_, ", \"dynamic\": patterns with different settings match ", path,
           "; keep the one that was used");
    }
    grid = changed;
  }
  return grid.value_or(grid_);
}

bool GptqReader::quantizes(const std::string& path) const {
  const bool is_left_out = std::any_of(rules_.begin(), rules_.end(), [&](const auto& rule) {
    return rule.leaves_out && rule.pattern.begins(path);
  });
  if (is_left_out) return false;
  return modules_.empty() || std::any_of(modules_.begin(), modules_.end(),
                                         [&](const auto& name) { return path.ends_with(name); });
}

LayerCodes GptqReader::codes_of(const LayerTensors& layer) const {
  const GptqGrid grid = grid_at(layer.path());
  LayerCodes codes = grid_of(layer, grid.bits, grid.group_size, grid.symmetric, "scales", what_);
  look_at_gptq_layer(layer, codes);
  if (act_order_ && grid.group_size != -1 && !layer.has("g_idx")) {
    fail(layer.where("g_idx"), " is missing, which \"desc_act\": true asks for; the folder is ",
         "incomplete, take it from its source again");
  }
  return codes;
}

[[maybe_unused]] const bool registered = register_layout_reader<GptqReader>();

}  // namespace
}  // namespace cbq
