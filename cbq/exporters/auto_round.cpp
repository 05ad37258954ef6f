// "auto_round": AutoRound's own checkpoints (Cheng et al. 2024), whose tensors are GPTQ's without
// g_idx, and whose packing "auto_round" stores zero points as they are.
#include "cbq/exporters/gptq_tensors.h"
#include "tensor/runtime/program_version.h"

using nlohmann::json;

namespace cbq {
namespace {

json arguments_of(const GptqGrid& grid) {
  return {{"bits", grid.bits},
          {"group_size", grid.group_size},
          {"sym", grid.symmetric},
          {"data_type", "int"}};
}

class AutoRoundExporter final : public CodedExporter {
 public:
  std::string name() const override { return "auto_round"; }
  std::string help() const override {
    return "integer codes for transformers with the package auto-round";
  }
  std::string obstacle(const ExportPlan& plan) const override {
    std::string obstacle = gptq_obstacle(plan, StoredZero::as_is, name());
    return obstacle.empty() ? act_order_obstacle(plan) : obstacle;
  }

 protected:
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override {
    add_gptq_layer(path, parts, StoredZero::as_is, /*with_group_index=*/false, to.tensors);
    grids_.add(path, parts.weight);
  }
  json section() const override {
    json section = arguments_of(grids_.usual());
    section["quant_method"] = "auto-round";
    section["packing_format"] = "auto_round";
    section["block_name_to_quantize"] = blocks();
    section["provider"] = concat("cbq:", program_version());
    // Layers that differ are named one by one; 16 bits: floating point.
    json others = json::object();
    for (const auto& [layer, grid] : grids_.others()) others[layer] = arguments_of(grid);
    for (const std::string& layer : in_floating_point()) others[layer] = {{"bits", float_bits}};
    if (!others.empty()) section["extra_config"] = others;
    return section;
  }

 private:
  /// "model.layers": what the paths of all blocks begin with.
  std::string blocks() const {
    const std::string first = model().block_prefix(0);  // "model.layers.0."
    return first.substr(0, first.size() - 3);
  }

  GptqGrids grids_;
};

[[maybe_unused]] const bool registered = register_exporter<AutoRoundExporter>();

}  // namespace
}  // namespace cbq
