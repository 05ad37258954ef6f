// Percentile clipping (McKinstry et al. 2019; as "Percentile" in the tables of Wei et al. 2022):
// ranges end at the p-th percentile of the magnitudes instead of at the largest.
//
//   weights:      W <- clamp(W, -c, c), c = percentile_p(|W|) of the tensor, or of each output
//                 channel with "per_channel".
//   activations:  clip ratio alpha = percentile_p(|X|) / max|X|; per token: the mean over tokens of
//                 percentile_p(|x_t|) / max|x_t|, because a dynamic range belongs to its token.
// Percentiles interpolate linearly between order statistics. The paper does not say which p: 99.9.
#include <algorithm>
#include <cmath>

#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

/// Value at position p/100 (n - 1) of the sorted values; they are reordered.
double percentile(std::vector<double>& values, double p) {
  const double position = p / 100.0 * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(std::floor(position));
  std::nth_element(values.begin(), below, values.end());
  const double fraction = position - std::floor(position);
  if (fraction == 0.0) return *below;
  return *below + fraction * (*std::min_element(below + 1, values.end()) - *below);
}

class Percentile : public Preprocessor {
 public:
  std::string name() const override { return "percentile"; }
  std::string help() const override {
    return "clips weights and activations at a percentile of their magnitudes; options: the "
           "percentile, 99.9 by default, and per_channel";
  }
  bool handles_weight_outliers() const override { return true; }
  bool handles_activation_outliers() const override { return true; }
  bool clips_activations() const override { return true; }
  bool needs_statistics() const override { return true; }
  void configure(const std::string& arguments) override {
    for (const std::string& option : split_arguments(arguments)) {
      if (option == "per_channel") {
        per_channel_ = true;
      } else {
        percentile_ = number_argument(name(), option, 50.0, 100.0);
      }
    }
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    for (const NamedLinear& layer : clamps_.layers_with_grid(model, block, context)) {
      clamps_.clamp(layer, weight_range(layer.linear->weight.value()));
    }
    if (!context.activation.quantizes()) return;
    const bool per_token = context.activation.granularity == Granularity::per_token;
    for (const NamedLinear& layer : layers_of(model, block)) {
      clips_.set(context, layer.name, clip_ratio(statistics.of(layer.name), per_token));
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    std::vector<std::string> notes = clamps_.notes(name());
    if (context.activation.quantizes()) notes.push_back(clips_.note(name()));
    return notes;
  }

 private:
  ClipRange weight_range(const Tensor& w) const {
    std::vector<double> magnitudes = w.to_vector<double>();
    for (double& x : magnitudes) x = std::abs(x);
    const int64_t n = per_channel_ ? w.size(1) : w.count();
    std::vector<double> low, high;
    for (auto row = magnitudes.begin(); row != magnitudes.end(); row += n) {
      std::vector<double> values(row, row + n);
      high.push_back(percentile(values, percentile_));
      low.push_back(-high.back());
    }
    return uniform_range(w, low, high);
  }

  double clip_ratio(const InputStatistics& input, bool per_token) const {
    std::vector<double> magnitudes = input.sample.to_vector<double>();
    for (double& x : magnitudes) x = std::abs(x);
    if (!per_token) {
      const double largest = *std::max_element(input.abs_max.begin(), input.abs_max.end());
      return largest > 0.0 ? usable(percentile(magnitudes, percentile_) / largest) : 1.0;
    }
    const int64_t n = input.sample.size(1);
    double sum = 0.0;
    int64_t tokens = 0;
    for (auto row = magnitudes.begin(); row != magnitudes.end(); row += n) {
      std::vector<double> values(row, row + n);
      const double largest = *std::max_element(values.begin(), values.end());
      if (largest == 0.0) continue;
      sum += percentile(values, percentile_) / largest;
      ++tokens;
    }
    return tokens == 0 ? 1.0 : usable(sum / static_cast<double>(tokens));
  }

  /// A range must not vanish where most values are 0.
  static double usable(double ratio) { return std::max(ratio, 1e-3); }

  double percentile_ = 99.9;
  bool per_channel_ = false;
  ClampReport clamps_;
  ClipReport clips_;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("percentile", [] { return std::make_unique<Percentile>(); });

}  // namespace
}  // namespace cbq
