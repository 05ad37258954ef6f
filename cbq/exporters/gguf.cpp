// "gguf": llama.cpp's file, with the weights of the result in block formats that hold them exactly
// (nn/gguf/gguf_grid.h).
#include "cbq/exporters/gguf_file.h"
#include "cbq/stream.h"

namespace cbq {
namespace {

class GgufExporter final : public Exporter {
 public:
  std::string name() const override { return "gguf"; }
  std::string help() const override {
    return "integer codes for llama.cpp (Q2_K to Q8_0, whichever holds the grid exactly)";
  }
  std::vector<Dtype> dtypes() const override { return {Dtype::f32, Dtype::bf16, Dtype::f16}; }
  std::string obstacle(const ExportPlan& plan) const override;
  // Weights in the file are s (q - z) in f32.
  bool rounds(const ExportPlan&, Dtype computed, Dtype written) const override {
    return computed != Dtype::f32 || written != Dtype::f32;
  }

  void begin(Transformer& model, const ExportTarget& target) override {
    model_ = &model;
    file_.emplace(model, target);
  }
  void add_block(int64_t block) override {
    NamedTensors floats = block_parameters(*model_, block);
    for (const WindowLinear& l : linears_of(*model_, {block, 1})) {
      const LayerParts parts = parts_of(*l.linear, l.path);
      if (!parts.packed) continue;
      const std::string weight = l.path + ".weight";
      floats.erase(weight);
      file_->add(weight, *parts.packed, parts.weight);
    }
    for (const auto& [path, values] : floats) file_->add(path, values);
  }
  void finish() override {
    for (const auto& [path, values] : outer_parameters(*model_)) file_->add(path, values);
    file_->finish();
  }

 private:
  Transformer* model_ = nullptr;
  std::optional<GgufModelFile> file_;
};

/// What stands in the way of a layer, and the setting that takes it away; "": nothing.
std::string layer_obstacle(const PlannedLayer& layer) {
  const WeightConfig& config = layer.weight;
  if (!config.quantizes()) return "";
  const std::string scales = half_scale_obstacle(
      layer, "quantize with --scale-type f16, or e5m6 for the smaller files of Q4_1");
  if (!scales.empty()) return scales;
  const GgufGrid grid = gguf_grid_of(config, layer.in);
  const std::string obstacle = gguf_grid_obstacle(grid);
  if (obstacle.empty()) return "";
  const bool fits_nothing = layer.in % 32 != 0;
  return concat(layer.path, ": ", obstacle,
                fits_nothing ? " (--layer-bits NAME=16 leaves such layers in floating point)"
                             : " (groups of 32 and their multiples are held, and whole rows; 8 "
                               "bits only with --symmetric)");
}

std::string GgufExporter::obstacle(const ExportPlan& plan) const {
  if (std::string obstacle = gguf_model_obstacle(plan); !obstacle.empty()) return obstacle;
  if (std::string obstacle = coded_obstacle(plan); !obstacle.empty()) return obstacle;
  if (std::string obstacle = act_order_obstacle(plan); !obstacle.empty()) return obstacle;
  const auto* layer =
      plan.first_layer([](const PlannedLayer& l) { return layer_obstacle(l) != ""; });
  return layer == nullptr ? "" : layer_obstacle(*layer);
}

[[maybe_unused]] const bool registered = register_exporter<GgufExporter>();

}  // namespace
}  // namespace cbq
