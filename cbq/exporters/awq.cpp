// "awq": AWQ's checkpoints (cbq/exporters/awq_tensors.h), 4 bits and one grid for all layers.
#include "cbq/exporters/awq_tensors.h"
#include "cbq/exporters/gptq_tensors.h"

using nlohmann::json;

namespace cbq {
namespace {

std::string layer_obstacle(const PlannedLayer& layer) {
  if (!layer.weight.quantizes()) return "";
  if (layer.weight.bits != awq_bits) {
    return concat(layer.path, " has ", layer.weight.bits, " bits; it holds 4 alone");
  }
  if (layer.out % awq_per_word != 0) {
    return concat(layer.path, " has ", layer.out, " outputs, not a multiple of ", awq_per_word,
                  " (--layer-bits NAME=16 leaves such layers in floating point)");
  }
  return half_scale_obstacle(layer);
}

class AwqExporter final : public CodedExporter {
 public:
  std::string name() const override { return "awq"; }
  std::string help() const override {
    return "4-bit codes for transformers, GPTQModel and vLLM (AWQ's layout gemm)";
  }
  std::string obstacle(const ExportPlan& plan) const override {
    std::string obstacle = weights_only_obstacle(plan, "quantizers of activations");
    if (obstacle.empty()) obstacle = act_order_obstacle(plan);
    if (!obstacle.empty()) return obstacle;
    const auto* layer =
        plan.first_layer([](const PlannedLayer& l) { return layer_obstacle(l) != ""; });
    return layer == nullptr ? "" : layer_obstacle(*layer);
  }

 protected:
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override {
    add_awq_layer(path, parts, to.tensors);
    grids_.add(path, parts.weight);
  }
  json section() const override {
    json section = {{"quant_method", "awq"},
                    {"version", "gemm"},
                    {"bits", awq_bits},
                    {"group_size", grids_.usual().group_size},
                    // Zero points are stored for symmetric grids, too.
                    {"zero_point", true}};
    section["modules_to_not_convert"] =
        in_floating_point().empty() ? json() : json(in_floating_point());
    return section;
  }

 private:
  GptqGrids grids_;
};

[[maybe_unused]] const bool registered = register_exporter<AwqExporter>();

}  // namespace
}  // namespace cbq
