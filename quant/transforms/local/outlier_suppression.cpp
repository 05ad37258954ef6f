// Outlier Suppression (Wei et al. 2022): gamma migration and token-wise clipping.
//
//   gamma migration:  a norm's weight gamma, which amplifies outliers, moves into the linears that
//                     read it: X_c / gamma_c, W[:, c] gamma_c, i.e. the fold with s = gamma. In a
//                     pre-norm model the residual stream does not see it. Where gamma_c = 0 it
//                     stays.
//   token-wise clipping, coarse stage: of candidate clips, the one with the least error
//                     ||X W^T - Q(X) W^T||^2 of the linear's output. Per tensor the candidates are
//                     quantiles over tokens of the tokens' largest magnitudes; a dynamic range per
//                     token already follows its token, so there they are clip ratios.
//                     The quantiles (ratios) go down from 1 by 0.9 at 4 bits, 0.3 at 6, 0.1 at 8.
// The fine stage, learning the clip by LSQ, is the reconstruction's: clip ratios are learned there.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

constexpr int64_t clipping_rows = 256;
constexpr int clipping_candidates = 20;

class OutlierSuppression : public Preprocessor {
 public:
  std::string name() const override { return "outlier_suppression"; }
  std::string help() const override {
    return "moves the norms' weights into the next linears and clips activations by the error of "
           "the output (Wei et al. 2022)";
  }
  bool handles_activation_outliers() const override { return true; }
  bool clips_activations() const override { return true; }
  bool needs_statistics() const override { return true; }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    std::map<std::string, std::vector<double>> divided_by;  // consumer -> factor per channel
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      if (site.site.norm_weight == nullptr) continue;
      std::vector<double> gamma = site.site.norm_weight->value().to_vector<double>();
      for (double& g : gamma) {
        if (g != 0.0) continue;
        g = 1.0;
        ++zeros_;
      }
      fold(site, gamma);
      for (const std::string& consumer : site.consumers) divided_by[consumer] = gamma;
      ++norms_;
    }
    if (!context.activation.quantizes()) return;
    for (const NamedLinear& layer : layers_of(model, block)) {
      const InputStatistics& before = statistics.of(layer.name);
      const auto factors = divided_by.find(layer.name);
      const double alpha = best_ratio(
          factors == divided_by.end() ? before : divided(before, factors->second), layer, context);
      clips_.set(context, layer.name, alpha);
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    std::vector<std::string> notes = skipped_notes(name(), skipped_);
    notes.push_back(concat(name(), ": moved the weights of ", norms_,
                           " norms into the next linears",
                           zeros_ > 0 ? concat("; ", zeros_, " channels with weight 0 stay") : ""));
    notes.push_back(context.activation.quantizes()
                        ? clips_.note(name())
                        : name() + ": no token-wise clipping, activations stay in floating point");
    return notes;
  }

 private:
  static InputStatistics divided(InputStatistics s, const std::vector<double>& factors) {
    std::vector<double> inverse;
    for (size_t c = 0; c < factors.size(); ++c) {
      inverse.push_back(1.0 / factors[c]);
      const double a = s.min[c] / factors[c], b = s.max[c] / factors[c];
      s.min[c] = std::min(a, b);
      s.max[c] = std::max(a, b);
      s.abs_max[c] = std::max(-s.min[c], s.max[c]);
    }
    s.sample = multiply_columns(s.sample, inverse);
    return s;
  }

  static std::vector<double> candidate_ratios(const InputStatistics& input,
                                              const ActivationConfig& config) {
    const double reach = config.bits <= 4 ? 0.9 : config.bits <= 6 ? 0.3 : 0.1;
    std::vector<double> ratios;
    for (int i = 0; i < clipping_candidates; ++i)
      ratios.push_back(1.0 - reach * i / (clipping_candidates - 1));
    if (config.granularity == Granularity::per_token) return ratios;
    std::vector<double> token_maxima;
    const int64_t n = input.sample.size(1);
    const std::vector<double> values = input.sample.to_vector<double>();
    for (auto row = values.begin(); row != values.end(); row += n) {
      const auto [low, high] = std::minmax_element(row, row + n);
      token_maxima.push_back(std::max(-*low, *high));
    }
    std::sort(token_maxima.begin(), token_maxima.end());
    const double largest = *std::max_element(input.abs_max.begin(), input.abs_max.end());
    if (largest <= 0.0) return {1.0};
    for (double& ratio : ratios) {
      const double position = ratio * static_cast<double>(token_maxima.size() - 1);
      ratio = std::max(token_maxima[static_cast<size_t>(position)] / largest, 1e-3);
    }
    ratios.front() = 1.0;  // the range as it is, also where the sample misses its ends
    return ratios;
  }

  static double best_ratio(const InputStatistics& input, const NamedLinear& layer,
                           const PreprocessContext& context) {
    using kernels::Trans;
    const Tensor w = layer.linear->weight.value();
    const Tensor x = sample_rows(input, clipping_rows, w.dtype(), w.device());
    const ActivationQuantizer quantizer =
        activation_quantizer_of(context, layer.name, input, w.device());
    double best = 1.0, least = INFINITY;
    for (const double alpha : candidate_ratios(input, context.activation)) {
      const Tensor difference = kernels::sub(quantize_with_ratio(quantizer, x, alpha), x);
      const double error =
          kernels::sum_of_squares(kernels::matmul(difference, Trans::no, w, Trans::yes));
      if (error < least) {
        least = error;
        best = alpha;
      }
    }
    return best;
  }

  SkippedSites skipped_;
  int64_t norms_ = 0, zeros_ = 0;
  ClipReport clips_;
};

[[maybe_unused]] const bool registered = preprocessors().add(
    "outlier_suppression", [] { return std::make_unique<OutlierSuppression>(); });

}  // namespace
}  // namespace cbq
