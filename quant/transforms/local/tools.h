// What several preprocessors share: arguments, the weights to be quantized, errors of a quantized
// linear.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/activation_quantizer.h"
#include "quant/transforms/local/arithmetic.h"
#include "quant/transforms/local/preprocessor.h"
#include "quant/transforms/local/sites.h"

namespace cbq {

/// "a,b" -> {"a", "b"}; "" -> {}.
std::vector<std::string> split_arguments(const std::string& arguments);
/// Throws std::invalid_argument, naming the stage, unless `text` is a number in [low, high].
double number_argument(const std::string& stage, const std::string& text, double low, double high);

/// All linears of a block. Their names are paths from the root of the model:
/// "model.layers.3.self_attn.q_proj".
std::vector<NamedLinear> layers_of(Transformer& model, int64_t block);

/// Counts what a clamp of many weights did, for its notes.
class ClampReport {
 public:
  /// The linears of a block whose weights are quantized; the others are counted, since clipping a
  /// weight that stays in floating point would only do harm. Throws std::invalid_argument, naming
  /// the layer, for NaN or infinity in a weight.
  std::vector<NamedLinear> layers_with_grid(Transformer& model, int64_t block,
                                            const PreprocessContext& context);
  /// Clamps `layer`'s weight and counts.
  void clamp(const NamedLinear& layer, const ClipRange& range);
  /// "who: clamped 12 of 34567 weights (0.035 %) in 3 of 84 layers", and how many layers stayed in
  /// floating point, if any.
  std::vector<std::string> notes(const std::string& who) const;

 private:
  int64_t weights_ = 0, clamped_ = 0, layers_ = 0, layers_clamped_ = 0, in_floating_point_ = 0;
};

/// Collects clip ratios, for one note.
class ClipReport {
 public:
  /// context.activation_clip[layer] = alpha, and counts.
  void set(PreprocessContext& context, const std::string& layer, double alpha);
  /// "who: clip ratios 0.71 to 1 (mean 0.93) for the inputs of 84 layers"
  std::string note(const std::string& who) const;

 private:
  double low_ = 1.0, high_ = 0.0, sum_ = 0.0;
  int64_t layers_ = 0;
};

/// The activation quantizer that the run will give this layer, static ranges from `statistics`.
ActivationQuantizer activation_quantizer_of(const PreprocessContext& context,
                                            const std::string& layer,
                                            const InputStatistics& statistics, Device device);
/// x^ with the clip ratio alpha.
Tensor quantize_with_ratio(const ActivationQuantizer& quantizer, const Tensor& x, double alpha);
/// W^ on the min/max grid of the layer's config, rounded to nearest; w itself in floating point.
Tensor quantize_nearest(const Tensor& w, const PreprocessContext& context,
                        const std::string& layer);
/// W^ on the min/max grid of `config`, which quantizes, rounded to nearest.
Tensor nearest_on_min_max_grid(const Tensor& w, WeightConfig config, const std::string& layer);
/// ||a - b||^2.
double squared_distance(const Tensor& a, const Tensor& b);
/// ||Y - Q(X) Q(W)^T||^2 of a layer: `x` and `w` as a transform makes them, X with the ranges of
/// `statistics` where these are static; `y` [tokens, out] without quantizers. Nearest rounding.
double quantized_error(const PreprocessContext& context, const std::string& layer,
                       const InputStatistics& statistics, const Tensor& x, const Tensor& w,
                       const Tensor& y);
/// Rows of a sample, at most `rows`, evenly spaced, as an activation of the model.
Tensor sample_rows(const InputStatistics& statistics, int64_t rows, Dtype dtype, Device device);

}  // namespace cbq
