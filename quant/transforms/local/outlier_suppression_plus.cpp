// Outlier Suppression+ (Wei et al. 2023): channel-wise scaling with one searched threshold.
//
//   s_c = max(1, max|X_c| / t),   X_c / s_c,  W[:, c] s_c,
// t per place, the one of 24 (from the largest max|X_c| geometrically down to their median) with
// the least error of the linears' outputs,
//   sum over readers of ||X W^T - Q(X / s) Q(W s)^T||^2,   min/max grids, nearest rounding.
// Two differences from the published method: its channel-wise shift z_c = (max X_c + min X_c) / 2
// needs biases behind the shift and a bias in the norm, which an RMSNorm does not have, so it is
// left out for every family (and noted); its error is that of the attention's or MLP's output, here
// the linear's.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

constexpr int64_t threshold_rows = 256;
constexpr int threshold_candidates = 24;

class OutlierSuppressionPlus : public Preprocessor {
 public:
  std::string name() const override { return "outlier_suppression_plus"; }
  std::string help() const override {
    return "scales channels above a threshold that is searched by the error of the output (Wei et "
           "al. 2023, without shifting)";
  }
  bool handles_activation_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      ++places_;
      const InputStatistics& input = statistics.of(site.consumers.front());
      const std::vector<double> s = best_factors(site, input, context);
      const double top = *std::max_element(s.begin(), s.end());
      if (top <= 1.0) continue;
      fold(site, s);
      ++scaled_;
      largest_ = std::max(largest_, top);
    }
  }
  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes = {name() + ": channels are scaled, not shifted"};
    for (std::string& note : skipped_notes(name(), skipped_)) notes.push_back(std::move(note));
    notes.push_back(concat(name(), ": scaled channels in ", scaled_, " of ", places_,
                           " places, factors up to ", largest_));
    return notes;
  }

 private:
  static std::vector<double> best_factors(const FoldSite& site, const InputStatistics& input,
                                          const PreprocessContext& context) {
    const std::vector<double> maxima = site.largest_by_slot(input.abs_max);
    std::vector<double> sorted = maxima;
    std::sort(sorted.begin(), sorted.end());
    const double top = sorted.back(), bottom = sorted[sorted.size() / 2];
    std::vector<double> best(maxima.size(), 1.0);
    if (bottom <= 0.0) return best;
    double least = INFINITY;
    for (int i = 0; i < threshold_candidates; ++i) {
      const double t =
          top * std::pow(bottom / top, static_cast<double>(i) / (threshold_candidates - 1));
      std::vector<double> s;
      for (const double m : maxima) s.push_back(std::max(1.0, m / t));
      const double error = output_error(site, input, site.by_channel(s), context);
      if (error < least) {
        least = error;
        best = s;
      }
    }
    return best;
  }

  static double output_error(const FoldSite& site, const InputStatistics& input,
                             const std::vector<double>& s, const PreprocessContext& context) {
    using kernels::Trans;
    std::vector<double> inverse;
    InputStatistics scaled = input;
    for (size_t c = 0; c < s.size(); ++c) {
      inverse.push_back(1.0 / s[c]);
      scaled.min[c] /= s[c];
      scaled.max[c] /= s[c];
    }
    double error = 0.0;
    for (size_t i = 0; i < site.consumers.size(); ++i) {
      const Tensor w = site.site.consumers[i]->weight.value();
      const Tensor x = sample_rows(input, threshold_rows, w.dtype(), w.device());
      error +=
          quantized_error(context, site.consumers[i], scaled, multiply_columns(x, inverse),
                          multiply_columns(w, s), kernels::matmul(x, Trans::no, w, Trans::yes));
    }
    return error;
  }

  SkippedSites skipped_;
  int64_t places_ = 0, scaled_ = 0;
  double largest_ = 1.0;
};

[[maybe_unused]] const bool registered = preprocessors().add(
    "outlier_suppression_plus", [] { return std::make_unique<OutlierSuppressionPlus>(); });

}  // namespace
}  // namespace cbq
