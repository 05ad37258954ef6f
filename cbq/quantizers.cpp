#include "cbq/quantizers.h"

#include <algorithm>
#include <cmath>

#include "autograd/functions.h"
#include "cbq/learnable.h"

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

void observe_inputs(Transformer& model, const Window& window,
                    const std::vector<std::pair<Linear*, ActivationQuantizer*>>& fresh,
                    const Tensor& inputs, const Poll& poll) {
  const FloatBlocks none(model, window);
  for (const auto& [linear, quantizer] : fresh) {
    linear->transform = std::make_shared<ObservingTransform>(quantizer);
  }
  run_blocks(model, window, inputs, poll);
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

/// Every token's part of a head is one row of its own.
class QuantizedAttention : public AttentionTransform {
 public:
  QuantizedAttention(const ActivationConfig& config, Device device, const std::string& name)
      : quantizer_(config, device, name) {
    for (Var v : quantizer_.variables()) v.set_requires_grad(false);
  }
  Var operand(const Var& x, int64_t head_dim) override {
    return ag::reshape(quantizer_.fake_quant(ag::reshape(x, {-1, head_dim})), x.shape());
  }
  const ActivationConfig& config() const { return quantizer_.config(); }

 private:
  ActivationQuantizer quantizer_;
};

}  // namespace

void attach_attention_quantizer(Block& block, const std::string& prefix, Device device,
                                const ActivationConfig& activation) {
  ActivationConfig config = activation;
  config.granularity = Granularity::per_token;
  config.dynamic = true;
  if (block.attention_transform) return;
  block.attention_transform =
      std::make_shared<QuantizedAttention>(config, device, prefix + "attention");
}

void attach_attention_quantizers(Transformer& model, const Window& window,
                                 const ActivationConfig& activation) {
  for (int64_t b = window.first; b <= window.last(); ++b) {
    attach_attention_quantizer(model.block(b), model.block_prefix(b), model.device(), activation);
  }
}

std::optional<ActivationConfig> attention_config_of(const Block& block) {
  const auto* attention = dynamic_cast<const QuantizedAttention*>(block.attention_transform.get());
  return attention ? std::optional(attention->config()) : std::nullopt;
}

void check_layers(Transformer& model, const Settings& settings) {
  if (model.block_count() == 0) return;
  // All blocks have the same shapes, so one that is in memory, or empty, speaks for them.
  const std::unique_ptr<Block> empty = model.is_loaded(0) ? nullptr : model.make_block();
  Block& any = empty ? *empty : model.block(0);
  std::vector<std::string> layers;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    for (const WindowLinear& l : linears_of(model, any, b)) {
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
  if (settings.quantize_attention) attach_attention_quantizers(model, window, activation);
  std::vector<std::pair<Linear*, ActivationQuantizer*>> fresh;
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
      fresh.emplace_back(l.linear, activation_quantizer.get());
    }
    if (!weight_quantizer && !activation_quantizer) continue;
    l.linear->transform = std::make_shared<QuantizedTransform>(std::move(weight_quantizer),
                                                               std::move(activation_quantizer));
  }
  if (!fresh.empty() && !activation.dynamic && inputs.defined()) {
    observe_inputs(model, window, fresh, inputs, poll);
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
