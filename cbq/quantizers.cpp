#include "cbq/quantizers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "cbq/learnable.h"
#include "quant/quantized_attention.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {

WeightConfig weight_config_of(const Transformer& model, const Settings& settings,
                              const WindowLinear& layer) {
  const bool outer = layer.block == 0 || layer.block + 1 == model.block_count();
  return settings.weight_config(layer.path, layer.fc2 && outer);
}

namespace {

/// Floating point, with someone looking on.
class ObservingTransform : public LinearTransform {
 public:
  explicit ObservingTransform(ActivationQuantizer* observer) : observer_(observer) {}
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    observer_->observe(x.value());
    return x;
  }

 private:
  ActivationQuantizer* observer_;
};

/// The same for the operands of attention.
class ObservingAttention : public AttentionTransform {
 public:
  explicit ObservingAttention(QuantizedAttention* observer) : observer_(observer) {}
  Var operand(const Var& x, int64_t, AttentionOperand which) override {
    observer_->observe(x.value(), which);
    return x;
  }

 private:
  QuantizedAttention* observer_;
};

/// Quantizers with static ranges that have seen nothing so far.
struct FreshQuantizers {
  std::vector<std::pair<Linear*, ActivationQuantizer*>> inputs;
  std::vector<std::pair<Block*, QuantizedAttention*>> attentions;
};

void observe_inputs(Transformer& model, const Window& window, const FreshQuantizers& fresh,
                    const Tensor& inputs, const Poll& poll) {
  const FloatBlocks none(model, window);
  for (const auto& [block, attention] : fresh.attentions) {
    block->attention_transform = std::make_shared<ObservingAttention>(attention);
  }
  for (const auto& [linear, quantizer] : fresh.inputs) {
    linear->transform = std::make_shared<ObservingTransform>(quantizer);
  }
  run_blocks(model, window, inputs, poll);
}

/// The observed range of all runs of an input; none: nothing was observed.
std::optional<std::pair<double, double>> range_of(const ActivationQuantizer& quantizer) {
  for (const auto& [name, tensor] : quantizer.snapshot()) {
    if (name != "range") continue;
    const std::vector<double> ends = tensor.to_vector<double>();
    const auto [low, high] = std::minmax_element(ends.begin(), ends.end());
    return std::pair(*low, *high);
  }
  return std::nullopt;
}

/// An expert that no token of the calibration reached takes the range that all other experts of its
/// block have at this place: tokens of a text may reach it.
void share_ranges_of_experts(const std::vector<WindowLinear>& linears) {
  // Linears at one place of the experts of a block have one name but for the expert's number.
  const auto place = [](const WindowLinear& l) {
    return std::pair(l.block, l.path.substr(l.path.rfind('.')));
  };
  std::map<std::pair<int64_t, std::string>, std::pair<double, double>> ranges;
  std::vector<const WindowLinear*> starved;
  for (const WindowLinear& l : linears) {
    const QuantizedTransform* q = l.quantizers();
    if (l.linear->expert < 0 || q == nullptr || !q->activation_quantizer) continue;
    const auto own = range_of(*q->activation_quantizer);
    if (!own) {
      starved.push_back(&l);
      continue;
    }
    const auto [at, is_new] = ranges.emplace(place(l), *own);
    at->second = {std::min(at->second.first, own->first), std::max(at->second.second, own->second)};
  }
  for (const WindowLinear* l : starved) {
    const auto found = ranges.find(place(*l));
    if (found == ranges.end()) continue;
    const auto width = static_cast<size_t>(l->linear->in_features());
    std::vector<double> ends(width, found->second.first);
    ends.insert(ends.end(), width, found->second.second);
    l->quantizers()->activation_quantizer->observe(
        Tensor::from(ends, {2, l->linear->in_features()}, Dtype::f32));
  }
}

std::unique_ptr<ActivationQuantizer> make_activation_quantizer(const ActivationConfig& config,
                                                               Device device,
                                                               const std::string& layer,
                                                               const ActivationStarts& starts) {
  std::vector<int64_t> clusters;
  if (const auto found = starts.clusters.find(layer);
      found != starts.clusters.end() && config.granularity == Granularity::per_cluster) {
    clusters = found->second;
  }
  auto quantizer =
      std::make_unique<ActivationQuantizer>(config, device, layer, std::move(clusters));
  if (const auto clip = starts.clips.find(layer); clip != starts.clips.end()) {
    const auto a = static_cast<float>(std::log(clip->second));
    quantizer->restore({{"clip", Tensor::from<float>({a}, {1})}});
  }
  return quantizer;
}

}  // namespace

void attach_attention_quantizer(Block& block, const std::string& prefix, Device device,
                                const ActivationConfig& config, const ActivationStarts& starts) {
  if (block.attention_transform) return;
  auto attention = std::make_shared<QuantizedAttention>(config, device, prefix);
  for (const AttentionOperand operand : attention_operands) {
    const auto found = starts.clusters.find(attention_path(prefix, operand));
    if (found != starts.clusters.end() && config.granularity == Granularity::per_cluster) {
      attention->set_clusters(operand, found->second);
    }
  }
  block.attention_transform = std::move(attention);
}

std::optional<ActivationConfig> attention_config_of(const Block& block) {
  const QuantizedAttention* attention = block.attention_quantizers();
  return attention ? std::optional(attention->config()) : std::nullopt;
}

void check_layers(Transformer& model, const Settings& settings) {
  if (model.block_count() == 0) return;
  const ShapesOnly without_memory;
  std::vector<std::string> layers;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    const std::unique_ptr<Block> block = model.make_block_at(b);
    for (const WindowLinear& l : linears_of(model, *block, b)) {
      layers.push_back(l.path);
      const WeightConfig config = weight_config_of(model, settings, l);
      if (config.quantizes()) check_weight_config(config, l.path, l.linear->in_features());
    }
  }
  check_layer_bits(settings, layers);
}

void attach_learned_scaling(Transformer& model, const Window& window,
                            const std::map<int64_t, ScalingStarts>& starts) {
  for (int64_t b = window.first; b <= window.last(); ++b) {
    const auto start = starts.find(b);
    if (start == starts.end() || model.block(b).equivalent) continue;
    model.block(b).equivalent = std::make_shared<LearnedScaling>(model, b, start->second);
  }
}

void attach_quantizers(Transformer& model, const Window& window, const Settings& settings,
                       const Tensor& inputs, const ActivationStarts& starts, const Poll& poll) {
  const ActivationConfig activation = settings.activation_config();
  FreshQuantizers fresh;
  for (int64_t b = window.first; b <= window.last() && settings.quantize_attention; ++b) {
    Block& block = model.block(b);
    if (block.attention_transform) continue;
    attach_attention_quantizer(block, model.block_prefix(b), model.device(), activation, starts);
    fresh.attentions.emplace_back(&block, block.attention_quantizers());
  }
  for (const WindowLinear& l : linears_of(model, window)) {
    if (l.linear->transform) continue;
    if (poll) poll();
    const WeightConfig config = weight_config_of(model, settings, l);
    std::unique_ptr<WeightQuantizer> weight_quantizer;
    std::unique_ptr<ActivationQuantizer> activation_quantizer;
    if (config.quantizes()) {
      weight_quantizer = std::make_unique<WeightQuantizer>(
          l.linear->current_weight().value(), config, settings.rounding_config(), l.path,
          settings.seed, static_cast<uint64_t>(l.index));
      if (l.linear->equivalent) weight_quantizer->follow_weight();
    }
    if (activation.quantizes()) {
      activation_quantizer = make_activation_quantizer(activation, model.device(), l.path, starts);
      fresh.inputs.emplace_back(l.linear, activation_quantizer.get());
    }
    if (!weight_quantizer && !activation_quantizer) continue;
    l.linear->transform = std::make_shared<QuantizedTransform>(std::move(weight_quantizer),
                                                               std::move(activation_quantizer));
  }
  if (!fresh.inputs.empty() && !activation.dynamic && inputs.defined()) {
    observe_inputs(model, window, fresh, inputs, poll);
    share_ranges_of_experts(linears_of(model, window));
  }
}

void remove_quantizers(Transformer& model) {
  for (int64_t b = 0; b < model.block_count(); ++b) {
    if (!model.is_loaded(b)) continue;
    for (const NamedLinear& l : model.block(b).linears()) l.linear->transform = nullptr;
    model.block(b).attention_transform = nullptr;
    if (model.block(b).equivalent) model.block(b).equivalent->set_active(false);
    model.block(b).equivalent = nullptr;
  }
}

void harden_blocks(Transformer& model, const Window& blocks) {
  for (const WindowLearnable& l : learnables_of(model, blocks)) l.learnable->freeze();
}

void drop_originals(Transformer& model, const Window& blocks) {
  for (const WindowLinear& l : linears_of(model, blocks)) {
    const QuantizedTransform* q = l.quantizers();
    if (q == nullptr || !q->weight_quantizer || !q->weight_quantizer->hardened()) continue;
    l.linear->weight.set_value(q->weight_quantizer->fake_quant(l.linear->weight).value());
  }
}

std::map<std::string, Tensor> quantizer_state(Transformer& model, const Window& blocks) {
  std::map<std::string, Tensor> state;
  for (const WindowLearnable& l : learnables_of(model, blocks)) {
    for (const auto& [name, value] : l.learnable->state()) {
      state[l.learnable->name() + "." + name] = value;
    }
  }
  return state;
}

void restore_quantizer_state(Transformer& model, const Window& blocks,
                             const std::map<std::string, Tensor>& state) {
  for (const WindowLearnable& l : learnables_of(model, blocks)) {
    const std::string prefix = l.learnable->name() + ".";
    Learnable::State values;
    for (auto at = state.lower_bound(prefix); at != state.end() && at->first.starts_with(prefix);
         ++at) {
      values.emplace_back(at->first.substr(prefix.size()), at->second);
    }
    check(!values.empty() || l.learnable->state().empty(), "the state lacks ", l.learnable->name());
    l.learnable->restore(values);
  }
}

}  // namespace cbq
