// The learnable equivalent transformation (LET of OmniQuant, Shao et al. 2024). This stage folds
// the start into the model, and leaves scales and shifts to be learned from there
// (quant/transforms/local/learned_scaling.h).
//
//   s_c = max|X_c|^alpha / max|W[:, c]|^(1 - alpha),   z_c = (max X_c + min X_c) / 2,
//   (X_c - z_c) / s_c,   W[:, c] s_c,   b + W z,
// at three places of a block: behind both norms and behind the attention's values. As in the
// program of the paper, W is that of one reader, q_proj or up_proj, every maximum and s_c is at
// least 1e-5, and shifts are there only where inputs are quantized. They need biases on both
// sides, so that LLaMA has none. Its z_c is a moving average over the segments (here: the middle of
// the whole range).
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

constexpr double least = 1e-5;

class Let : public Preprocessor {
 public:
  std::string name() const override { return "let"; }
  std::string help() const override {
    return "scales and shifts channels behind norms and behind attention's values, and leaves the "
           "factors to be learned (Shao et al. 2024); options: a of max|X|^a / max|W|^(1-a), 0.5 "
           "by default; no_shift";
  }
  bool handles_activation_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }
  bool leaves_factors() const override { return true; }
  void configure(const std::string& arguments) override {
    for (const std::string& argument : split_arguments(arguments)) {
      if (argument == "no_shift") {
        shifts_ = false;
      } else {
        alpha_ = number_argument(name(), argument, 0.0, 1.0);
      }
    }
  }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    const QueryKeyRows rows = model.block(block).query_key_rows();
    const std::string output =
        model.block_prefix(block) + model.block(block).attention_output_name();
    ScalingStarts& starts = context.learned_scaling[block];
    for (const FoldSite& site : fold_sites(model, block, skipped_)) {
      if (site.site.norm_weight == nullptr && site.consumers.front() != output) continue;
      starts[site.path] = start_of(site, rows, statistics.of(site.consumers.front()), context);
      const ScalingStart& start = starts[site.path];
      if (!start.shift.empty()) fold_shift(site, start.shift);
      fold(site, start.scale);
    }
    if (rows.obstacle.empty()) {
      ++query_key_blocks_;
    } else {
      ++skipped_["queries and keys: " + rows.obstacle];
    }
  }

  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes = skipped_notes(name(), skipped_);
    notes.push_back(concat(name(), ": factors of the channels at ", places_, " places start at ",
                           least_, " to ", largest_, "; ", shifted_,
                           " of the places are shifted, too; queries and keys have factors in ",
                           query_key_blocks_,
                           " blocks; other inputs are left alone, as published"));
    return notes;
  }

 private:
  ScalingStart start_of(const FoldSite& site, const QueryKeyRows& rows,
                        const InputStatistics& input, const PreprocessContext& context) {
    const std::vector<Linear*>& readers = site.site.consumers;
    const bool has_queries =
        std::find(readers.begin(), readers.end(), rows.queries) != readers.end();
    const Linear* reader = has_queries ? rows.queries : readers.back();
    const std::vector<double> x = site.largest_by_slot(input.abs_max);
    const std::vector<double> w =
        site.largest_by_slot(kernels::abs_max_columns(reader->weight.value()).to_vector<double>());
    ScalingStart start;
    for (size_t c = 0; c < x.size(); ++c) {
      const double raw =
          std::pow(std::max(x[c], least), alpha_) / std::pow(std::max(w[c], least), 1.0 - alpha_);
      start.scale.push_back(std::max(raw, least));
      least_ = std::min(least_, start.scale.back());
      largest_ = std::max(largest_, start.scale.back());
    }
    ++places_;
    if (!shifts_ || !context.activation.quantizes() || !can_shift(site)) return start;
    std::vector<double> negated = input.min;
    for (double& low : negated) low = -low;
    const std::vector<double> high = site.largest_by_slot(input.max),
                              low = site.largest_by_slot(negated);
    for (size_t c = 0; c < high.size(); ++c) start.shift.push_back((high[c] - low[c]) / 2.0);
    ++shifted_;
    return start;
  }

  double alpha_ = 0.5;
  bool shifts_ = true;
  SkippedSites skipped_;
  double least_ = INFINITY, largest_ = 0.0;
  int64_t places_ = 0, shifted_ = 0, query_key_blocks_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("let", [] { return std::make_unique<Let>(); });

}  // namespace
}  // namespace cbq
