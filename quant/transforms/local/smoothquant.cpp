// SmoothQuant (Xiao et al. 2023): range moves from activations into weights, channel by channel.
//
//   s_c = max|X_c|^alpha / max|W[:, c]|^(1 - alpha),   X_c / s_c,  W[:, c] s_c,
// the maximum over all linears that read X. As in the method's code: only behind norms (o_proj and
// down_proj keep their inputs), alpha = 0.5, s_c >= 1e-5. A channel that is always 0, or whose
// weights are, keeps s_c = 1.
#include <algorithm>
#include <cmath>

#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

class SmoothQuant : public Preprocessor {
 public:
  std::string name() const override { return "smoothquant"; }
  std::string help() const override {
    return "scales every channel behind a norm by max|X|^a / max|W|^(1-a) (Xiao et al. 2023); "
           "option: a, 0.5 by default";
  }
  bool handles_activation_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }
  void configure(const std::string& arguments) override {
    if (!arguments.empty()) alpha_ = number_argument(name(), arguments, 0.0, 1.0);
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext&) override {
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      if (site.site.norm_weight == nullptr) continue;
      const std::vector<double>& x = statistics.of(site.consumers.front()).abs_max;
      const std::vector<double> w = column_abs_max(site);
      std::vector<double> s;
      for (size_t c = 0; c < x.size(); ++c) {
        const bool alive = x[c] > 0.0 && w[c] > 0.0;
        const double raw = alive ? std::pow(x[c], alpha_) / std::pow(w[c], 1.0 - alpha_) : 1.0;
        s.push_back(std::max(raw, 1e-5));
        least_ = std::min(least_, s.back());
        largest_ = std::max(largest_, s.back());
      }
      fold(site, s);
      ++places_;
    }
  }
  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes = skipped_notes(name(), skipped_);
    notes.push_back(concat(name(), ": scaled the channels behind ", places_, " norms, factors ",
                           least_, " to ", largest_,
                           "; other inputs are left alone, as published"));
    return notes;
  }

 private:
  double alpha_ = 0.5;
  SkippedSites skipped_;
  double least_ = INFINITY, largest_ = 0.0;
  int64_t places_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("smoothquant", [] { return std::make_unique<SmoothQuant>(); });

}  // namespace
}  // namespace cbq
