// Coarse-to-fine pre-processing (CFP; CBQ, section 3.4): weight outliers are truncated, outlier
// channels of activations are scaled down. What an outlier is:
// quant/transforms/local/outlier_split.h.
//
//   weights:      W <- clamp(W, -t, t), t = the largest |W| that is kept; per tensor, or per output
//                 channel with "per_channel".
//   activations:  over the maxima m_c = max|X_c| of the channels of one input, with t the largest
//                 that is kept:  s_c = sqrt(m_c / t) for outlier channels, 1 for all others;
//                 X_c / s_c and W[:, c] s_c, the division folded into what produces X.
//                 (With s on all channels the denominator would cancel out: it is a common factor.)
#include <algorithm>
#include <cmath>

#include "quant/transforms/local/outlier_split.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

class Cfp : public Preprocessor {
 public:
  Cfp(bool weights, bool activations) : weights_(weights), activations_(activations) {}

  std::string name() const override {
    if (!activations_) return "cfp_weight";
    return weights_ ? "cfp_weight_activation" : "cfp_activation";
  }
  std::string help() const override {
    const std::string what = !activations_ ? "truncates weight outliers"
                             : weights_    ? "truncates weight outliers, scales activation outliers"
                                           : "scales outlier channels of activations";
    return what + " found coarse to fine (CBQ, Algorithm 1); options: " +
           (weights_ ? "per_channel, " : "") + "printed (variance as printed)";
  }
  bool handles_weight_outliers() const override { return weights_; }
  bool handles_activation_outliers() const override { return activations_; }
  bool needs_statistics() const override { return activations_; }

  void configure(const std::string& arguments) override {
    for (const std::string& option : split_arguments(arguments)) {
      const bool known = option == "printed" || (weights_ && option == "per_channel");
      check(known, "pre-processing '", name(), "': unknown option '", option,
            "'; known: ", weights_ ? "per_channel, " : "", "printed");
      if (option == "printed") config_.printed_variance = true;
      if (option == "per_channel") per_channel_ = true;
    }
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    if (weights_) truncate(model, block, context);
    if (activations_) scale(model, block, statistics);
  }
  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes;
    if (weights_) notes = clamps_.notes(name());
    if (!activations_) return notes;
    for (std::string& note : skipped_notes(name(), skipped_)) notes.push_back(std::move(note));
    notes.push_back(concat(name(), ": scaled ", channels_, " outlier channels in ", scaled_sites_,
                           " of ", sites_, " places, factors up to ", largest_));
    return notes;
  }

 private:
  void truncate(Transformer& model, int64_t block, const PreprocessContext& context) {
    for (const NamedLinear& layer : clamps_.layers_with_grid(model, block, context)) {
      const Tensor w = layer.linear->weight.value();
      std::vector<double> magnitudes = w.to_vector<double>();
      for (double& x : magnitudes) x = std::abs(x);
      std::vector<double> high;
      const int64_t n = per_channel_ ? w.size(1) : w.count();
      for (auto row = magnitudes.begin(); row != magnitudes.end(); row += n) {
        high.push_back(find_outliers(std::vector<double>(row, row + n), config_).threshold);
      }
      std::vector<double> low = high;
      for (double& x : low) x = -x;
      clamps_.clamp(layer, uniform_range(w, low, high));
    }
  }

  void scale(Transformer& model, int64_t block, const CalibrationStatistics& statistics) {
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      ++sites_;
      const std::vector<double> maxima =
          site.largest_by_slot(statistics.of(site.consumers.front()).abs_max);
      const OutlierSplit split = find_outliers(maxima, config_);
      if (split.outliers == 0 || split.threshold <= 0.0) continue;
      std::vector<double> s;
      for (const double m : maxima) {
        s.push_back(m > split.threshold ? std::sqrt(m / split.threshold) : 1.0);
        largest_ = std::max(largest_, s.back());
      }
      fold(site, s);
      channels_ += split.outliers;
      ++scaled_sites_;
    }
  }

  bool weights_, activations_;
  bool per_channel_ = false;
  OutlierConfig config_;
  ClampReport clamps_;
  SkippedSites skipped_;
  int64_t channels_ = 0, scaled_sites_ = 0, sites_ = 0;
  double largest_ = 1.0;
};

template <bool weights, bool activations>
bool add_cfp(const char* name) {
  return preprocessors().add(name, [] { return std::make_unique<Cfp>(weights, activations); });
}

[[maybe_unused]] const bool registered = add_cfp<true, false>("cfp_weight") &&
                                         add_cfp<false, true>("cfp_activation") &&
                                         add_cfp<true, true>("cfp_weight_activation");

}  // namespace
}  // namespace cbq
