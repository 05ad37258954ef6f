#include "quant/transforms/global/outlier_transform.h"

#include <algorithm>
#include <cmath>

#include "kernels/formulas/philox.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

/// `count` different numbers below n.
std::vector<int64_t> draw_channels(int64_t count, int64_t n, uint64_t seed, uint64_t site) {
  std::vector<int64_t> channels;
  for (int64_t c = 0; c < n; ++c) channels.push_back(c);
  for (int64_t i = 0; i < count; ++i) {  // Fisher and Yates, as far as needed
    const auto left = static_cast<uint64_t>(n - i);
    const uint64_t drawn = philox_bits(seed, site, static_cast<uint64_t>(i)) % left;
    std::swap(channels[static_cast<size_t>(i)], channels[static_cast<size_t>(i) + drawn]);
  }
  channels.resize(static_cast<size_t>(count));
  return channels;
}

/// "outliers:4x30" as a stage before the pre-processing that is to be compared.
class OutlierChannels : public Preprocessor {
 public:
  std::string name() const override { return "outliers"; }
  std::string help() const override {
    return "outliers:<count>x<factor>: gives activations behind norms outlier channels without "
           "changing the function, for models that have none";
  }
  bool needs_statistics() const override { return false; }
  void configure(const std::string& arguments) override {
    const size_t x = arguments.find('x');
    check(x != std::string::npos, "pre-processing 'outliers' is written outliers:<count>x<factor>,",
          " as in outliers:4x30; got 'outliers:", arguments, "'");
    const double count = number_argument(name(), arguments.substr(0, x), 1, 1e6);
    check(count == std::floor(count), "pre-processing 'outliers': the count ", count,
          " is not a whole number");
    count_ = static_cast<int64_t>(count);
    factor_ = number_argument(name(), arguments.substr(x + 1), 1e-6, 1e6);
  }
  void set(int64_t count, double factor) {
    check(std::isfinite(factor) && factor > 0.0, "outliers: the factor must be positive, got ",
          factor);
    count_ = count;
    factor_ = factor;
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics&,
             PreprocessContext& context) override {
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      if (site.site.norm_weight == nullptr) continue;
      check(count_ >= 1 && count_ <= site.slots(), "outliers: ", count_, " channels of ",
            site.slots());
      std::vector<double> s(static_cast<size_t>(site.slots()), 1.0);
      for (const int64_t c : draw_channels(count_, site.slots(), context.seed, norms_)) {
        s[static_cast<size_t>(c)] = 1.0 / factor_;
      }
      fold(site, s);
      ++norms_;
    }
  }
  std::vector<std::string> notes(const PreprocessContext& context) const override {
    std::vector<std::string> notes = skipped_notes(name(), skipped_);
    notes.push_back(concat("outliers: ARTIFICIAL outlier channels: ", count_,
                           " channels behind each of ", norms_, " norms scaled up by ", factor_,
                           " (and the weights that read them down), seed ", context.seed));
    return notes;
  }

 private:
  int64_t count_ = 0;
  double factor_ = 1.0;
  SkippedSites skipped_;
  uint64_t norms_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("outliers", [] { return std::make_unique<OutlierChannels>(); });

}  // namespace

std::vector<std::string> add_outlier_channels(Transformer& model, int64_t count, double factor,
                                              uint64_t seed) {
  OutlierChannels stage;
  stage.set(count, factor);
  PreprocessContext context;
  context.seed = seed;
  for (int64_t b = 0; b < model.block_count(); ++b) stage.apply(model, b, {}, context);
  return stage.notes(context);
}

}  // namespace cbq
