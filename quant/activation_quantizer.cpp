#include "quant/activation_quantizer.h"

#include <algorithm>
#include <cmath>

#include "autograd/outputs.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "quant/activation_kernels.h"
#include "quant/quantize_tokens.h"

namespace cbq {

ActivationQuantizer::ActivationQuantizer(const ActivationConfig& config, Device device,
                                         const std::string& layer)
    : config_(config), layer_(layer) {
  check_activation_config(config, layer);
  if (config.quantizes()) clip_ = Var(Tensor::zeros({1}, Dtype::f32, device), true);
}

void ActivationQuantizer::observe(const Tensor& x) {
  if (!config_.quantizes() || config_.dynamic || x.count() == 0) return;
  const ActivationRange range = range_of(x);
  const double low = range.low.item(), high = range.high.item();
  check(std::isfinite(low) && std::isfinite(high), layer_,
        ": calibration activations hold NaN or infinity");
  low_ = std::min(low_, low);
  high_ = std::max(high_, high);
  observed_ = true;
  static_low_ = Tensor();
}

Var ActivationQuantizer::fake_quant(const Var& x) const {
  if (!config_.quantizes()) return x;
  if (const std::vector<Var> fused = inputs(Deferred(x), {this}); !fused.empty()) return fused[0];
  const Dtype dtype = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  ActivationRange range;
  if (!config_.dynamic) {
    check(observed_, layer_,
          ": a static activation quantizer needs calibration data: call observe() first");
    if (!static_low_.defined() || static_low_.dtype() != dtype ||
        static_low_.device() != x.device()) {
      static_low_ = Tensor::from<double>({low_}, {1}, dtype, x.device());
      static_high_ = Tensor::from<double>({high_}, {1}, dtype, x.device());
    }
    range = {static_low_, static_high_};
  }
  const Tensor clip = kernels::cast(clip_.value(), dtype);
  return differentiable(quantize_activation(x.value(), clip, range, config_), {&x, &clip_},
                        [x, a = clip_, clip, range, config = config_](const Tensor& dy) {
                          const auto [dx, da] =
                              quantize_activation_backward(x.value(), clip, range, config, dy);
                          if (x.requires_grad()) x.accumulate(dx);
                          if (a.requires_grad()) a.accumulate(kernels::cast(da, a.dtype()));
                        });
}

std::vector<Var> ActivationQuantizer::inputs(const Deferred& y,
                                             const std::vector<const FusedInput*>& readers) const {
  if (!tuned::enabled() || !quantize_tokens_takes(y, readers.size())) return {};
  const Dtype dtype = y.x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  std::vector<TokenQuantizer> quantizers;
  std::vector<Var> clips, variables{y.x, y.second};
  for (const FusedInput* reader : readers) {
    const auto* other = dynamic_cast<const ActivationQuantizer*>(reader);
    if (other == nullptr || !other->takes_ranges_per_token()) return {};
    quantizers.push_back({kernels::cast(other->clip_.value(), dtype), other->config_});
    clips.push_back(other->clip_);
    variables.push_back(other->clip_);
  }
  QuantizedTokens forward = quantize_tokens(y, quantizers);
  const std::vector<Tensor> outputs = std::exchange(forward.outputs, {});  // not kept for backward
  return differentiable_outputs(
      outputs, variables, [y, quantizers, clips, forward](const std::vector<Tensor>& grads) {
        std::vector<TokenQuantizer> reached;  // by a gradient
        std::vector<Var> reached_clips;
        std::vector<Tensor> dy;
        for (size_t i = 0; i < grads.size(); ++i) {
          if (!grads[i].defined()) continue;
          reached.push_back(quantizers[i]);
          reached_clips.push_back(clips[i]);
          dy.push_back(grads[i]);
        }
        const bool want_x = y.x.requires_grad() || y.second.requires_grad();
        const TokenGradients d = quantize_tokens_backward(y, reached, forward, dy, want_x);
        if (y.x.requires_grad()) y.x.accumulate(d.x);
        if (d.second.defined() && y.second.requires_grad()) y.second.accumulate(d.second);
        for (size_t i = 0; i < dy.size(); ++i) {
          const Var& a = reached_clips[i];
          if (a.requires_grad()) a.accumulate(kernels::cast(d.clips[i], a.dtype()));
        }
      });
}

std::vector<Var> ActivationQuantizer::variables() const {
  if (!clip_.defined()) return {};
  return {clip_};
}

std::vector<std::pair<std::string, Tensor>> ActivationQuantizer::snapshot() const {
  std::vector<std::pair<std::string, Tensor>> values;
  if (clip_.defined()) values.emplace_back("clip", clip_.value().clone());
  if (observed_) values.emplace_back("range", Tensor::from<double>({low_, high_}, {2}, Dtype::f32));
  return values;
}

void ActivationQuantizer::restore(const std::vector<std::pair<std::string, Tensor>>& values) {
  for (const auto& [name, tensor] : values) {
    if (name == "clip" && clip_.defined()) {
      clip_.value().copy_from(tensor);
    } else if (name == "range") {
      check_shape(layer_.c_str(), "range", tensor, {2});
      const std::vector<double> range = tensor.to_vector<double>();
      low_ = range[0];
      high_ = range[1];
      observed_ = true;
      static_low_ = Tensor();
    }
  }
}

}  // namespace cbq
