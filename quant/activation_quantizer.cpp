#include "quant/activation_quantizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/outputs.h"
#include "kernels/launch/rows.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "quant/activation_kernels.h"
#include "quant/grid_rule.h"
#include "quant/quantize_tokens.h"

namespace cbq {

namespace {

/// The smallest and the largest element of runs of neighbouring columns.
struct RunRanges {
  std::vector<double> low, high;
};

/// x [tokens, n], n the sum of `runs`, the columns of each run. NaN does not get lost.
RunRanges ranges_of(const Tensor& x, const std::vector<int64_t>& runs) {
  const auto [lows, highs] = kernels::min_max_rows(kernels::transpose(x));
  const std::vector<double> smallest = lows.to_vector<double>(),
                            largest = highs.to_vector<double>();
  RunRanges ranges;
  size_t channel = 0;
  for (const int64_t size : runs) {
    double low = smallest[channel], high = largest[channel];
    for (const size_t end = channel + static_cast<size_t>(size); channel < end; ++channel) {
      if (smallest[channel] < low || std::isnan(smallest[channel])) low = smallest[channel];
      if (largest[channel] > high || std::isnan(largest[channel])) high = largest[channel];
    }
    ranges.low.push_back(low);
    ranges.high.push_back(high);
  }
  return ranges;
}

RunRanges whole_range_of(const Tensor& x) {
  const ActivationRange range = range_of(x);
  return {{range.low.item()}, {range.high.item()}};
}

}  // namespace

ActivationQuantizer::ActivationQuantizer(const ActivationConfig& config, Device device,
                                         const std::string& layer, std::vector<int64_t> clusters)
    : config_(config), layer_(layer) {
  check_activation_config(config, layer);
  if (config.quantizes()) clip_ = Var(Tensor::zeros({1}, Dtype::f32, device), true);
  set_clusters(std::move(clusters));
}

void ActivationQuantizer::set_clusters(std::vector<int64_t> clusters) {
  check(clusters.empty() || config_.granularity == Granularity::per_cluster, layer_,
        ": activations have clusters with per_cluster ranges only, not ", config_.granularity);
  for (const int64_t size : clusters) {
    check(size > 0, layer_, ": a cluster of ", size, " channels");
  }
  clusters_ = std::move(clusters);
  low_.assign(std::max<size_t>(1, clusters_.size()), 0.0);
  high_ = low_;
  static_range_ = {};
}

void ActivationQuantizer::observe(const Tensor& x) {
  if (!config_.quantizes() || config_.dynamic || x.count() == 0) return;
  check_width(x);
  const RunRanges ranges = clusters_.empty() ? whole_range_of(x) : ranges_of(x, clusters_);
  for (size_t run = 0; run < low_.size(); ++run) {
    check(std::isfinite(ranges.low[run]) && std::isfinite(ranges.high[run]), layer_,
          ": calibration activations hold NaN or infinity");
    low_[run] = std::min(low_[run], ranges.low[run]);
    high_[run] = std::max(high_[run], ranges.high[run]);
  }
  observed_ = true;
  static_range_ = {};
}

void ActivationQuantizer::check_width(const Tensor& x) const {
  const int64_t channels = std::accumulate(clusters_.begin(), clusters_.end(), int64_t{0});
  check(clusters_.empty() || x.size(-1) == channels, layer_, ": clusters of ", channels,
        " channels, and an input of ", x.size(-1));
}

const ActivationRange& ActivationQuantizer::static_range(const Tensor& x) const {
  check(observed_, layer_,
        ": a static activation quantizer needs calibration data: call observe() first");
  check_width(x);
  const Dtype dtype = accumulation_dtype(x.dtype());
  const Tensor& made = static_range_.low;
  if (made.defined() && made.dtype() == dtype && made.device() == x.device()) return static_range_;
  const auto runs = static_cast<int64_t>(low_.size());
  static_range_ = {Tensor::from(low_, {runs}, dtype, x.device()),
                   Tensor::from(high_, {runs}, dtype, x.device()),
                   {}};
  if (clusters_.empty()) return static_range_;
  std::vector<int32_t> ends;
  for (const int64_t size : clusters_) {
    ends.push_back(static_cast<int32_t>(size) + (ends.empty() ? 0 : ends.back()));
  }
  static_range_.ends = Tensor::from(ends, {runs}, Dtype::i32, x.device());
  return static_range_;
}

Var ActivationQuantizer::fake_quant(const Var& x) const {
  if (!config_.quantizes()) return x;
  if (const std::vector<Var> fused = inputs(Deferred(x), {this}); !fused.empty()) return fused[0];
  const Dtype dtype = accumulation_dtype(x.dtype());
  const ActivationRange range = config_.dynamic ? ActivationRange() : static_range(x.value());
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

StaticGrid ActivationQuantizer::static_grid() const {
  check(config_.granularity == Granularity::per_tensor && observed_, layer_,
        ": its input has no range of all tokens");
  const auto low = static_cast<float>(low_[0]), high = static_cast<float>(high_[0]);
  const GridRule<float> rule(config_.bits, config_.symmetric, config_.form);
  const float clip = clip_.value().to_vector<float>()[0];
  const TokenGrid<float> grid = rule.token_grid(std::min(low, 0.0f), std::max(high, 0.0f), clip);
  return {grid.scale, static_cast<int>(grid.zero_point)};
}

std::vector<Var> ActivationQuantizer::variables() const {
  if (!clip_.defined()) return {};
  return {clip_};
}

std::vector<std::pair<std::string, Tensor>> ActivationQuantizer::snapshot() const {
  std::vector<std::pair<std::string, Tensor>> values;
  if (clip_.defined()) values.emplace_back("clip", clip_.value().clone());
  if (!observed_) return values;
  const auto runs = static_cast<int64_t>(low_.size());
  std::vector<double> ranges;
  for (size_t run = 0; run < low_.size(); ++run) {
    ranges.push_back(low_[run]);
    ranges.push_back(high_[run]);
  }
  const Shape shape = clusters_.empty() ? Shape{2} : Shape{runs, 2};
  values.emplace_back("range", Tensor::from(ranges, shape, Dtype::f32));
  if (clusters_.empty()) return values;
  const std::vector<double> sizes(clusters_.begin(), clusters_.end());
  values.emplace_back("clusters", Tensor::from(sizes, {runs}, Dtype::f32));
  return values;
}

void ActivationQuantizer::restore(const std::vector<std::pair<std::string, Tensor>>& values) {
  for (const auto& [name, tensor] : values) {  // first: they say how many ranges there are
    if (name != "clusters") continue;
    std::vector<int64_t> sizes;
    for (const double size : tensor.to_vector<double>()) {
      sizes.push_back(static_cast<int64_t>(size));
    }
    set_clusters(std::move(sizes));
  }
  for (const auto& [name, tensor] : values) {
    if (name == "clip" && clip_.defined()) {
      clip_.value().copy_from(tensor);
    } else if (name == "range") {
      const auto runs = static_cast<int64_t>(low_.size());
      check_shape(layer_.c_str(), "range", tensor, clusters_.empty() ? Shape{2} : Shape{runs, 2});
      const std::vector<double> ranges = tensor.to_vector<double>();
      for (size_t run = 0; run < low_.size(); ++run) {
        low_[run] = ranges[2 * run];
        high_[run] = ranges[2 * run + 1];
        check(std::isfinite(low_[run]) && std::isfinite(high_[run]) && low_[run] <= high_[run],
              layer_, ": the stored range of its input, ", low_[run], " to ", high_[run],
              ", is damaged; quantize again");
      }
      observed_ = true;
      static_range_ = {};
    }
  }
}

}  // namespace cbq
