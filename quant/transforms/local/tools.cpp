#include "quant/transforms/local/tools.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/ops.h"
#include "quant/rounding.h"

namespace cbq {

std::vector<std::string> split_arguments(const std::string& arguments) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < arguments.size();) {
    const size_t end = std::min(arguments.find(',', begin), arguments.size());
    parts.push_back(arguments.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

double number_argument(const std::string& stage, const std::string& text, double low, double high) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  check(!text.empty() && *end == '\0' && value >= low && value <= high, "pre-processing '", stage,
        "': expected a number from ", low, " to ", high, ", got '", text, "'");
  return value;
}

std::vector<NamedLinear> layers_of(Transformer& model, int64_t block) {
  std::vector<NamedLinear> layers;
  for (const auto& [name, linear] : model.block(block).linears()) {
    layers.push_back({model.block_prefix(block) + name, linear});
  }
  return layers;
}

std::vector<NamedLinear> ClampReport::layers_with_grid(Transformer& model, int64_t block,
                                                       const PreprocessContext& context) {
  std::vector<NamedLinear> layers;
  for (const NamedLinear& layer : layers_of(model, block)) {
    check(!kernels::has_non_finite(layer.linear->weight.value()), layer.name,
          ": the weight holds NaN or infinity; the checkpoint is damaged or was not converted");
    if (context.weight_config(layer.name).quantizes()) {
      layers.push_back(layer);
    } else {
      ++in_floating_point_;
    }
  }
  return layers;
}

void ClampReport::clamp(const NamedLinear& layer, const ClipRange& range) {
  const Tensor w = layer.linear->weight.value();
  const int64_t outside = count_outside(w, range);
  ++layers_;
  weights_ += w.count();
  clamped_ += outside;
  if (outside == 0) return;
  ++layers_clamped_;
  layer.linear->weight.set_value(clamp_groups(w, range));
}

std::vector<std::string> ClampReport::notes(const std::string& who) const {
  std::vector<std::string> notes;
  if (in_floating_point_ > 0) {
    notes.push_back(concat(who, ": the weights of ", in_floating_point_,
                           " layers stay in floating point and were not clipped"));
  }
  const double percent =
      weights_ == 0 ? 0.0 : 100.0 * static_cast<double>(clamped_) / static_cast<double>(weights_);
  notes.push_back(concat(who, ": clamped ", clamped_, " of ", weights_, " weights (", percent,
                         " %) in ", layers_clamped_, " of ", layers_, " layers"));
  return notes;
}

void ClipReport::set(PreprocessContext& context, const std::string& layer, double alpha) {
  context.activation_clip[layer] = alpha;
  low_ = std::min(low_, alpha);
  high_ = std::max(high_, alpha);
  sum_ += alpha;
  ++layers_;
}

std::string ClipReport::note(const std::string& who) const {
  return concat(who, ": clip ratios ", low_, " to ", high_, " (mean ",
                sum_ / static_cast<double>(layers_), ") for the inputs of ", layers_, " layers");
}

ActivationQuantizer activation_quantizer_of(const PreprocessContext& context,
                                            const std::string& layer,
                                            const InputStatistics& statistics, Device device) {
  ActivationQuantizer quantizer(context.activation, device, layer);
  const auto n = static_cast<int64_t>(statistics.min.size());
  quantizer.observe(Tensor::from(statistics.min, {1, n}, Dtype::f32, device));
  quantizer.observe(Tensor::from(statistics.max, {1, n}, Dtype::f32, device));
  return quantizer;
}

Tensor quantize_with_ratio(const ActivationQuantizer& quantizer, const Tensor& x, double alpha) {
  const NoGrad none;
  for (const Var& a : quantizer.variables()) kernels::fill(a.value(), std::log(alpha));
  return quantizer.fake_quant(Var(x)).value();
}

Tensor quantize_nearest(const Tensor& w, const PreprocessContext& context,
                        const std::string& layer) {
  const WeightConfig config = context.weight_config(layer);
  return config.quantizes() ? nearest_on_min_max_grid(w, config, layer) : w;
}

Tensor nearest_on_min_max_grid(const Tensor& w, WeightConfig config, const std::string& layer) {
  config.search = ScaleSearch::min_max;
  const WeightGrid grid = weight_grid(w, config, layer);
  RoundingPass pass;
  pass.w = w;
  pass.scale = grid.scale;
  pass.zero_point = grid.zero_point;
  pass.bits = grid.bits;
  pass.group = grid.group;
  return rounding_schemes().make("nearest")->forward(pass);
}

double squared_distance(const Tensor& a, const Tensor& b) {
  return kernels::sum_of_squares(kernels::sub(a, b));
}

double quantized_error(const PreprocessContext& context, const std::string& layer,
                       const InputStatistics& statistics, const Tensor& x, const Tensor& w,
                       const Tensor& y) {
  using kernels::Trans;
  const ActivationQuantizer quantizer =
      activation_quantizer_of(context, layer, statistics, w.device());
  return squared_distance(kernels::matmul(quantize_with_ratio(quantizer, x, 1.0), Trans::no,
                                          quantize_nearest(w, context, layer), Trans::yes),
                          y);
}

Tensor sample_rows(const InputStatistics& statistics, int64_t rows, Dtype dtype, Device device) {
  const int64_t available = statistics.sample.size(0);
  const int64_t stride = (available + rows - 1) / rows;
  std::vector<int64_t> kept;
  for (int64_t r = 0; r < available; r += stride) kept.push_back(r);
  return kernels::cast(kernels::gather_rows(statistics.sample, kept).to(device), dtype);
}

}  // namespace cbq
