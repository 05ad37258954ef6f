// The scales of AWQ (Lin et al. 2024): channels that are large on average get more of the grid.
//
//   s_c = max(mean|X_c|^alpha, 1e-4) / sqrt(max s * min s),   X_c / s_c,  W[:, c] s_c,
// alpha the one of 0, 0.05, ..., 0.95 with the least squared error of an output with the weights
// Q(W diag(s)) diag(1/s), Q the min/max grid with nearest rounding. As in the authors' program the
// output is that of the whole attention (q, k and v together) or feed-forward part (gate and up
// together), and else the layer's own; sites are searched one by one with all other weights as they
// are, and are folded together afterwards.
//
// Where this differs from the program:
//   - Errors are over the first segments (StatisticsConfig::block_tokens), not over all.
//   - BLOOM: the program looks at the output of the whole block; here at that of the attention, and
//     for dense_h_to_4h at its own. It also scales behind GELU by changing the model, which is left
//     out.
//   - The site between v_proj and o_proj is left out where query heads share a key-value head or
//     the projection is fused, as in the program; "all_sites" takes these, too, with the mean over
//     the channels that share a factor.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/input_catcher.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

using kernels::Trans;

constexpr int ratio_steps = 20;
constexpr double least_scale = 1e-4;

class OtherWeight : public LinearTransform {
 public:
  explicit OtherWeight(const Tensor& weight) : weight_(weight) {}
  Var weight(const Var&) override { return weight_; }
  Var input(const Var& x) override { return x; }

 private:
  Var weight_;
};

/// While it lives, a linear has another transform.
class ScopedTransform {
 public:
  ScopedTransform(Linear& linear, std::shared_ptr<LinearTransform> transform)
      : linear_(linear), saved_(std::exchange(linear.transform, std::move(transform))) {}
  ~ScopedTransform() { linear_.transform = saved_; }
  ScopedTransform(const ScopedTransform&) = delete;
  ScopedTransform& operator=(const ScopedTransform&) = delete;

 private:
  Linear& linear_;
  std::shared_ptr<LinearTransform> saved_;
};

/// What `reader` reads when the segments pass the block as it stands, pass by pass.
std::vector<Tensor> inputs_of(Block& block, Linear& reader, const std::vector<BlockInput>& passes,
                              const std::function<void()>& poll) {
  const NoGrad none;
  const auto catcher = std::make_shared<InputCatcher>();
  const ScopedTransform catching(reader, catcher);
  std::vector<Tensor> inputs;
  for (const BlockInput& pass : passes) {
    if (poll) poll();
    catcher->seen = Tensor();
    run_until_seen(block, Var(pass.hidden), pass.sequence);
    if (catcher->seen.defined()) inputs.push_back(catcher->seen);  // else an expert got no token
  }
  return inputs;
}

/// Whether all consumers of the site make queries, keys or values. With parallel residual
/// connections the feed-forward part reads the same norm.
bool all_lead_to_attention(Block& block, const ScalingSite& site, const Linear* output) {
  const QueryKeyRows rows = block.query_key_rows();
  if (rows.queries == nullptr) return true;  // a family that does not say so
  const Linear* values = nullptr;
  for (const ScalingSite& other : block.scaling_sites()) {
    if (other.consumers.front() == output) values = other.producer;
  }
  return std::all_of(site.consumers.begin(), site.consumers.end(), [&](const Linear* l) {
    return l == rows.queries || l == rows.keys || l == values;
  });
}

/// The linear that ends the part of the block which the site's consumers begin, where the part's
/// output is what counts; else nullptr.
Linear* end_of_part(Block& block, const FoldSite& site) {
  const std::vector<std::vector<NamedLinear>> groups = linears_by_input(block);
  for (size_t i = 0; i + 1 < groups.size(); ++i) {
    if (groups[i].front().linear != site.site.consumers.front()) continue;
    const NamedLinear& next = groups[i + 1].front();
    const bool begins_attention = next.name == block.attention_output_name();
    if (begins_attention && !all_lead_to_attention(block, site.site, next.linear)) return nullptr;
    return begins_attention || site.site.consumers.size() > 1 ? next.linear : nullptr;
  }
  return nullptr;
}

/// The search at one site.
class SiteSearch {
 public:
  SiteSearch(Block& block, const FoldSite& site, const std::vector<BlockInput>& passes,
             const PreprocessContext& context)
      : block_(block),
        site_(site),
        passes_(passes),
        context_(context),
        end_(end_of_part(block, site)),
        read_(inputs_of(block, *site.site.consumers.front(), passes, context.poll)) {
    if (end_ != nullptr) reaches_end_ = inputs_of(block, *end_, passes, context.poll);
  }

  /// Factors per slot; `magnitude`: mean|X_c| per channel.
  std::vector<double> best(const std::vector<double>& magnitude) const {
    const std::vector<double> mean = mean_by_slot(magnitude);
    std::vector<double> best;
    double least = INFINITY;
    for (int step = 0; step < ratio_steps; ++step) {
      const std::vector<double> s = factors(mean, static_cast<double>(step) / ratio_steps);
      const double error = error_with(s);
      if (!(error < least)) continue;
      least = error;
      best = s;
    }
    check(!best.empty(), site_.path, ": no scale gives a finite error");
    return best;
  }

 private:
  /// Mean over the slot's channels.
  std::vector<double> mean_by_slot(const std::vector<double>& of_channels) const {
    std::vector<double> mean(static_cast<size_t>(site_.slots()), 0.0);
    for (int64_t c = 0; c < site_.channels(); ++c) {
      mean[static_cast<size_t>(site_.slot_of(c))] +=
          of_channels[static_cast<size_t>(c)] / static_cast<double>(site_.site.head_group);
    }
    return mean;
  }

  static std::vector<double> factors(const std::vector<double>& mean, double alpha) {
    std::vector<double> s;
    for (const double m : mean) s.push_back(std::max(std::pow(m, alpha), least_scale));
    const auto [low, high] = std::minmax_element(s.begin(), s.end());
    const double middle = std::sqrt(*low * *high);
    for (double& factor : s) factor /= middle;
    return s;
  }

  double error_with(const std::vector<double>& of_slots) const {
    const std::vector<double> s = site_.by_channel(of_slots);
    std::vector<double> inverse;
    for (const double factor : s) inverse.push_back(1.0 / factor);
    std::vector<Tensor> weights;
    for (size_t i = 0; i < site_.consumers.size(); ++i) {
      const Tensor scaled = multiply_columns(site_.site.consumers[i]->weight.value(), s);
      weights.push_back(
          multiply_columns(quantize_nearest(scaled, context_, site_.consumers[i]), inverse));
    }
    return end_ == nullptr ? own_error(weights) : part_error(weights);
  }

  /// ||X (W^ - W)^T||^2 over the consumers.
  double own_error(const std::vector<Tensor>& weights) const {
    double error = 0.0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor difference = kernels::sub(weights[i], site_.site.consumers[i]->weight.value());
      for (const Tensor& x : read_) error += squared_product(x, difference);
    }
    return error;
  }

  /// The same of the part's last linear, of what its input becomes.
  double part_error(const std::vector<Tensor>& weights) const {
    std::vector<std::unique_ptr<ScopedTransform>> replaced;
    for (size_t i = 0; i < weights.size(); ++i) {
      replaced.push_back(std::make_unique<ScopedTransform>(
          *site_.site.consumers[i], std::make_shared<OtherWeight>(weights[i])));
    }
    const std::vector<Tensor> now = inputs_of(block_, *end_, passes_, context_.poll);
    double error = 0.0;
    for (size_t i = 0; i < now.size(); ++i) {
      error += squared_product(kernels::sub(now[i], reaches_end_[i]), end_->weight.value());
    }
    return error;
  }

  static double squared_product(const Tensor& x, const Tensor& w) {
    return kernels::sum_of_squares(kernels::matmul(x, Trans::no, w, Trans::yes));
  }

  Block& block_;
  const FoldSite& site_;
  const std::vector<BlockInput>& passes_;
  const PreprocessContext& context_;
  Linear* end_;                      // of the part whose output counts; nullptr: the consumers' own
  std::vector<Tensor> read_;         // inputs of the consumers, pass by pass
  std::vector<Tensor> reaches_end_;  // inputs of end_
};

class AwqScale : public Preprocessor {
 public:
  std::string name() const override { return "awq_scale"; }
  std::string help() const override {
    return "scales channels by a power of their mean magnitude that is searched by the error of "
           "the output (Lin et al. 2024); option: all_sites (also where query heads share a "
           "key-value head, or projections are fused)";
  }
  /// Channels are scaled for the weights' sake; activations stay what they are.
  bool handles_weight_outliers() const override { return false; }
  bool needs_statistics() const override { return true; }
  void configure(const std::string& arguments) override {
    for (const std::string& option : split_arguments(arguments)) {
      check(option == "all_sites", "pre-processing 'awq_scale': unknown '", option,
            "'; known: all_sites");
      all_sites_ = true;
    }
  }

  void apply(Transformer& model, int64_t number, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    std::vector<std::pair<FoldSite, std::vector<double>>> found;
    for (const FoldSite& site : fold_sites(model, number, skipped_)) {
      if (left_out(site)) continue;
      const SiteSearch search(model.block(number), site, statistics.block_inputs(), context);
      found.emplace_back(site, search.best(statistics.of(site.consumers.front()).abs_mean));
    }
    for (const auto& [site, s] : found) {
      fold(site, s);
      ++places_;
      const auto [low, high] = std::minmax_element(s.begin(), s.end());
      scaled_ += *high > *low ? 1 : 0;
      least_ = std::min(least_, *low);
      largest_ = std::max(largest_, *high);
    }
  }
  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes = skipped_notes(name(), skipped_);
    notes.push_back(concat(name(), ": scaled channels in ", scaled_, " of ", places_,
                           " places, factors ", least_, " to ", largest_));
    return notes;
  }

 private:
  bool left_out(const FoldSite& site) {
    if (all_sites_) return false;
    const ScalingSite& s = site.site;
    // Where the producer of a feed-forward part is fused, only the rows of "up" change.
    const bool of_attention = s.head_dim > 0;
    const bool is_fused = of_attention && (s.parts > 1 || s.first_row > 0);
    if (s.head_group == 1 && !is_fused) return false;
    ++skipped_[concat(
        s.name, is_fused ? ": the projection is fused" : ": query heads share a key-value head",
        ", as published (all_sites takes it)")];
    return true;
  }

  bool all_sites_ = false;
  SkippedSites skipped_;
  int64_t places_ = 0, scaled_ = 0;
  double least_ = 1.0, largest_ = 1.0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("awq_scale", [] { return std::make_unique<AwqScale>(); });

}  // namespace
}  // namespace cbq
