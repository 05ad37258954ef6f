// What a result consists of, known from the settings before a run and from config.json after it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbq/settings.h"
#include "nn/config.h"
#include "quant/config.h"

namespace cbq {

/// One linear layer.
struct PlannedLayer {
  std::string path;  // "model.layers.0.mlp.down_proj"
  int64_t out = 0, in = 0;
  WeightConfig weight;      // bits: float_bits where the weight stays in floating point
  ActivationConfig input;   // likewise
  bool act_order = false;   // the inputs of a group are no neighbours (PackedWeight::group_index)
  bool clipped = false;     // a dynamic range of its input may have a clip ratio other than 1
  std::string online = "";  // kind of the StoredTransform before the layer; "": none
};

struct ExportPlan {
  ModelConfig model;
  std::vector<PlannedLayer> layers;           // of all blocks, in order
  std::optional<ActivationConfig> attention;  // of queries, keys and values; none: floating point
  /// Kind of the StoredTransform of queries and keys; "": none. It does not change the function, so
  /// a format that leaves attention in floating point leaves it out.
  std::string attention_online = "";
  /// Where the model's tokenizer lies (nn/text/tokenizer.h), for formats that hold it; empty: there
  /// is none.
  std::filesystem::path tokenizer;

  /// The first layer for which `is(layer)` holds; null if there is none.
  template <class F>
  const PlannedLayer* first_layer(F&& is) const {
    for (const PlannedLayer& layer : layers) {
      if (is(layer)) return &layer;
    }
    return nullptr;
  }
  /// Whether anything but weights is quantized.
  bool quantizes_activations() const {
    return attention || first_layer([](const PlannedLayer& l) { return l.input.quantizes(); });
  }
};

/// What `quantize` will make of a model with these settings. No weight is read.
ExportPlan export_plan(const ModelConfig& config, const Settings& settings);

/// Obstacles that several formats have, each a sentence with the setting that takes it away, or "":
/// an online transform before a layer, or no layer with codes;
std::string coded_obstacle(const ExportPlan& plan);
/// the same, and quantizers of activations: `what` the format has no place for;
std::string weights_only_obstacle(const ExportPlan& plan, const std::string& what);
/// groups of inputs that are no neighbours;
std::string act_order_obstacle(const ExportPlan& plan);
/// scales of a layer with codes that are no f16. `remedy` says how to quantize.
std::string half_scale_obstacle(const PlannedLayer& layer,
                                const std::string& remedy = "quantize with --scale-type f16");

}  // namespace cbq
