// OMSE (Choukroun et al. 2019): ranges with the least squared quantization error instead of
// min/max.
//
//   weights:      W <- clamp(W, a min W, b max W) with the a, b of least ||Q(clamp(W)) - W||^2 per
//                 group of the grid; a min/max grid of the result is the grid of least error.
//                 (With scale_search = squared_error the grid does that search anyway.)
//   activations:  clip ratio alpha of least sum over tokens of ||Q_alpha(x) - x||^2 per linear
//                 input, for alpha = 1, 0.99, ..., 0.2.
#include <cmath>

#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

class Omse : public Preprocessor {
 public:
  std::string name() const override { return "omse"; }
  std::string help() const override {
    return "clips weights and activations to the range of least squared error (Choukroun et al. "
           "2019)";
  }
  bool handles_weight_outliers() const override { return true; }
  bool handles_activation_outliers() const override { return true; }
  bool clips_activations() const override { return true; }
  bool needs_statistics() const override { return true; }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    for (const NamedLinear& layer : clamps_.layers_with_grid(model, block, context)) {
      const WeightConfig config = context.weight_config(layer.name);
      check_weight_config(config, layer.name, layer.linear->in_features());
      clamps_.clamp(layer, least_error_range(layer.linear->weight.value(), config));
    }
    if (!context.activation.quantizes()) return;

    std::map<const InputStatistics*, double> found;  // q, k and v read the same input
    for (const NamedLinear& layer : layers_of(model, block)) {
      const InputStatistics& input = statistics.of(layer.name);
      if (!found.count(&input)) found[&input] = best_ratio(input, layer, context);
      clips_.set(context, layer.name, found[&input]);
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    std::vector<std::string> notes = clamps_.notes(name());
    if (context.activation.quantizes()) notes.push_back(clips_.note(name()));
    return notes;
  }

 private:
  static double best_ratio(const InputStatistics& input, const NamedLinear& layer,
                           const PreprocessContext& context) {
    const Device device = layer.linear->weight.device();
    const Tensor x = input.sample.to(device);
    const ActivationQuantizer quantizer =
        activation_quantizer_of(context, layer.name, input, device);
    double best = 1.0, least = INFINITY;
    for (int step = 0; step <= 80; ++step) {
      const double alpha = 1.0 - 0.01 * step;
      const double error = squared_distance(quantize_with_ratio(quantizer, x, alpha), x);
      if (error < least) {
        least = error;
        best = alpha;
      }
    }
    return best;
  }

  ClampReport clamps_;
  ClipReport clips_;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("omse", [] { return std::make_unique<Omse>(); });

}  // namespace
}  // namespace cbq
