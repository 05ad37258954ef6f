#include "cbq/exporters/export_plan.h"

#include <algorithm>
#include <memory>

#include "cbq/global_transforms.h"
#include "cbq/quantizers.h"
#include "nn/families/family.h"
#include "quant/transforms/local/preprocessor.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {

ExportPlan export_plan(const ModelConfig& config, const Settings& settings) {
  const ShapesOnly without_memory;
  const auto model = make_without_blocks(config, Dtype::f32, Device::cpu());
  model->open_blocks(config.num_layers, nullptr);
  const std::map<OnlinePlace, std::string> online = online_kinds(settings);
  const auto kind_at = [&](OnlinePlace place) {
    const auto found = online.find(place);
    return found == online.end() ? std::string() : found->second;
  };
  const auto stages = parse_preprocessors(settings.preprocess);
  const ActivationConfig input = settings.activation_config();
  const bool learns_clips =
      settings.learn_activation && (settings.reconstructs() || settings.polishes());
  const bool clips = learns_clips || std::any_of(stages.begin(), stages.end(), [](const auto& s) {
                       return s->clips_activations();
                     });
  ExportPlan plan;
  plan.model = config;
  for (int64_t b = 0; b < model->block_count(); ++b) {
    const std::unique_ptr<Block> block = model->make_block_at(b);
    std::map<const Linear*, std::string> kinds;  // the first stage's that leaves one
    for (const auto& stage : stages) kinds.merge(stage->online_kinds(*block));
    for (const WindowLinear& l : linears_of(*model, *block, b)) {
      std::string online_before;
      if (l.fc2) online_before = kind_at(OnlinePlace::fc2);
      if (l.path == model->block_prefix(b) + block->attention_output_name()) {
        online_before = kind_at(OnlinePlace::attention_output);
      }
      if (online_before.empty() && kinds.contains(l.linear)) online_before = kinds[l.linear];
      plan.layers.push_back({.path = l.path,
                             .out = l.linear->out_features(),
                             .in = l.linear->in_features(),
                             .weight = weight_config_of(*model, settings, l),
                             .input = input,
                             .clipped = clips && input.quantizes() && input.dynamic,
                             .online = online_before});
    }
  }
  if (settings.quantize_attention && input.quantizes()) plan.attention = input;
  plan.attention_online = kind_at(OnlinePlace::attention);
  return plan;
}

std::string coded_obstacle(const ExportPlan& plan) {
  if (const auto* layer = plan.first_layer([](const PlannedLayer& l) { return l.online != ""; })) {
    return concat(layer->path, " stands behind an online transform (", layer->online,
                  "), for which it has no place");
  }
  const Family& family = family_of(plan.model.architecture);
  const auto* turned = plan.first_layer([&](const PlannedLayer& l) {
    return l.weight.quantizes() && family.is_transposed(l.path + ".weight");
  });
  if (turned != nullptr) {
    return concat("folders of ", plan.model.architecture, " hold ", turned->path,
                  " transposed, which its readers take for no linear layer");
  }
  if (plan.model.num_experts > 0) {
    return concat("transformers holds the experts of ", plan.model.architecture,
                  " fused, not as linear layers with codes");
  }
  const auto* coded = plan.first_layer([](const PlannedLayer& l) { return l.weight.quantizes(); });
  return coded == nullptr ? "no layer has codes" : "";
}

std::string weights_only_obstacle(const ExportPlan& plan, const std::string& what) {
  if (!plan.quantizes_activations()) return coded_obstacle(plan);
  return concat("it has no place for ", what, " (with --abits 16 there are none)");
}

std::string act_order_obstacle(const ExportPlan& plan) {
  const auto* layer = plan.first_layer([](const PlannedLayer& l) { return l.act_order; });
  if (layer == nullptr) return "";
  return concat("the inputs of a group of ", layer->path,
                " are no neighbours (act-order), for which it has no place");
}

std::string half_scale_obstacle(const PlannedLayer& layer, const std::string& remedy) {
  const ScaleType type = layer.weight.scale_type;
  if (!layer.weight.quantizes() || type == ScaleType::f16 || type == ScaleType::e5m6) return "";
  return concat("its scales are f16, those of ", layer.path, " are ", name_of(type), " (", remedy,
                ")");
}

}  // namespace cbq
