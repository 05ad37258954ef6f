// Folders with "quant_method": "auto-round", as AutoRound and cbq/exporters/auto_round.cpp write
// them: tensors of GPTQ in one of its versions, or of AWQ.
#include <algorithm>
#include <optional>

#include "cbq/exporters/awq_tensors.h"
#include "cbq/exporters/gptq_tensors.h"
#include "cbq/exporters/name_pattern.h"
#include "nn/formats/json.h"

using nlohmann::json;

namespace cbq {
namespace {

/// One entry of "extra_config": a layer's path, or a pattern that occurs in it.
struct ExtraRule {
  std::string path;
  NamePattern pattern;
  json changes;
};

class AutoRoundReader final : public LayoutReader {
 public:
  std::string method() const override { return "auto-round"; }
  std::vector<std::string> code_parts() const override { return {"qweight"}; }
  std::vector<std::string> parts() const override {
    return {"qweight", "qzeros", "scales", "g_idx"};
  }

  void read_section(const json& section, const std::string& what) override;
  bool quantizes(const std::string& path) const override {
    const bool in_blocks =
        blocks_.empty() || std::any_of(blocks_.begin(), blocks_.end(),
                                       [&](const auto& block) { return path.starts_with(block); });
    return in_blocks && grid_at(path).bits <= 8;
  }
  LayerCodes codes_of(const LayerTensors& layer) const override;
  PackedWeight read(const LayerTensors& layer, const LayerCodes& codes) const override {
    return is_awq_ ? read_awq_layer(layer, codes, "\"sym\"")
                   : read_gptq_layer(layer, codes, stored_);
  }

 private:
  void read_packing(const json& section);
  void read_extra(const json& extra);
  void read_blocks(const json& section);
  /// Overwrites what `section` states, and refuses what is no integer grid.
  void update(GptqGrid& grid, const json& section, const std::string& what) const;
  GptqGrid grid_at(const std::string& path) const;

  std::string what_;
  GptqGrid grid_;
  StoredZero stored_ = StoredZero::minus_one;
  bool is_awq_ = false;
  std::vector<ExtraRule> extra_;
  std::vector<std::string> blocks_;  // how the paths of their layers begin; empty: all
};

void AutoRoundReader::update(GptqGrid& grid, const json& section, const std::string& what) const {
  const auto find = [&](const char* key) -> const json& { return json_find(section, key, what); };
  if (const json& bits = find("bits"); !bits.is_null()) {
    grid.bits = static_cast<int>(json_int(bits, "bits", what, 1, 32));
  }
  if (const json& size = find("group_size"); !size.is_null()) {
    grid.group_size = json_int(size, "group_size", what, -1, 1 << 20);
  }
  if (const json& sym = find("sym"); !sym.is_null()) grid.symmetric = json_bool(sym, "sym", what);
  const json& type = find("data_type");
  if (grid.bits <= 8 && !type.is_null() && type != "int") {
    refuse_field(what, "data_type", type, "codes of integers are read (int)");
  }
  const json& inputs = find("act_bits");
  if (!inputs.is_null() && json_int(inputs, "act_bits", what, 1, 32) < float_bits) {
    refuse_field(what, "act_bits", inputs, "quantized activations of this method are not read");
  }
}

void AutoRoundReader::read_section(const json& section, const std::string& what) {
  what_ = what;
  json_at(section, "bits", what);
  update(grid_, section, what);
  if (const json& rotation = json_find(section, "rotation_config", what);
      !rotation.is_null() && !rotation.empty()) {
    refuse_field(what, "rotation_config", rotation, "rotations of other programs are not read");
  }
  read_packing(section);
  read_blocks(section);
  read_extra(json_find(section, "extra_config", what));
}

void AutoRoundReader::read_packing(const json& section) {
  const json& packing = json_find(section, "packing_format", what_);
  if (packing.is_null() || packing == "auto_round:auto_gptq") return;
  if (packing == "auto_round" || packing == "auto_round:gptqmodel") {
    stored_ = StoredZero::as_is;
  } else if (packing == "auto_round:auto_awq" || packing == "auto_round:awq") {
    is_awq_ = true;
  } else {
    refuse_field(what_, "packing_format", packing,
                 "auto_round, auto_round:gptqmodel, auto_round:auto_gptq and auto_round:auto_awq "
                 "are read");
  }
}

/// "model.layers", "model.layers.0,model.layers.1" or a list of such.
void AutoRoundReader::read_blocks(const json& section) {
  const std::string key = "block_name_to_quantize";
  const json& names = json_find(section, key, what_);
  if (names.is_null()) return;
  for (const json& name : names.is_array() ? names : json::array({names})) {
    if (name.is_array()) {  // lists of the blocks' own names: the tensors say which they are
      blocks_.clear();
      return;
    }
    std::string text = json_string(name, key, what_) + ",";
    for (size_t end; (end = text.find(',')) != std::string::npos; text.erase(0, end + 1)) {
      const size_t begin = std::min(text.find_first_not_of(' '), end);
      if (begin < end) blocks_.push_back(text.substr(begin, end - begin));
    }
  }
}

void AutoRoundReader::read_extra(const json& extra) {
  if (extra.is_null()) return;
  const std::string what = what_ + ", \"extra_config\"";
  if (!extra.is_object()) fail(what, ": expected an object of layers");
  for (const auto& [key, changes] : extra.items()) {
    if (!changes.is_object()) fail(what, ", \"", key, "\": expected an object of settings");
    extra_.push_back({key, NamePattern(key, what), changes});
  }
}

GptqGrid AutoRoundReader::grid_at(const std::string& path) const {
  const std::string what = what_ + ", \"extra_config\"";
  std::optional<GptqGrid> grid;
  for (const ExtraRule& rule : extra_) {
    if (rule.path != path && !rule.pattern.occurs_in(path)) continue;
    GptqGrid changed = grid_;
    update(changed, rule.changes, what);
    if (rule.path == path) return changed;  // a name counts before patterns
    if (grid && changed != *grid) {
      fail(what, ": patterns with different settings match ", path, "; keep the one that was used");
    }
    grid = changed;
  }
  return grid.value_or(grid_);
}

LayerCodes AutoRoundReader::codes_of(const LayerTensors& layer) const {
  const GptqGrid grid = grid_at(layer.path());
  LayerCodes codes = grid_of(layer, grid.bits, grid.group_size, grid.symmetric, "scales", what_);
  if (is_awq_) {
    look_at_awq_layer(layer, codes);
  } else {
    look_at_gptq_layer(layer, codes);
  }
  return codes;
}

[[maybe_unused]] const bool registered = register_layout_reader<AutoRoundReader>();

}  // namespace
}  // namespace cbq
