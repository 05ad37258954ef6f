// The clip of AWQ (Lin et al. 2024): ranges of weights by the error of what they multiply.
//
//   W <- clamp(W, -c, c),  c = r max|W| per row and group of inputs g, r the one of 1, 0.95, ...,
//   0.55 with the least  sum_t (sum_{j in g} (Q(clamp(W))_rj - W_rj) x_tj)^2,
// Q the min/max grid of the clamped weight with nearest rounding, x the calibration sample (512
// tokens, evenly spaced). As in the authors' program, layers whose outputs meet in the softmax
// (queries, keys, and projections fused with them) are not clipped. A grid of the whole tensor gets
// one c, by the sum of the rows' errors. Where c cuts both ends of an asymmetric range, the zero
// point is half a code, and last bits decide which way it is rounded, here as in the program.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/transforms/local/tools.h"

namespace cbq {
namespace {

using kernels::Trans;

constexpr int clip_steps = 10;
constexpr double step = 0.05;

/// Runs of inputs that share a scale.
int64_t group_of(const WeightConfig& config, int64_t in) {
  return config.granularity == Granularity::per_group ? config.group_size : in;
}

/// The search for one layer: W [out, in], X [tokens, in].
class ClipSearch {
 public:
  ClipSearch(const NamedLinear& layer, const WeightConfig& config, const Tensor& x)
      : layer_(layer.name),
        w_(layer.linear->weight.value()),
        config_(config),
        x_(x),
        group_(group_of(config, w_.size(1))),
        groups_(w_.size(1) / group_) {}

  ClipRange best() const {
    const std::vector<double> largest = magnitudes();
    std::vector<double> best = largest, least(largest.size(), INFINITY);
    for (int i = 0; i < clip_steps; ++i) {
      std::vector<double> clip = largest;
      for (double& c : clip) c *= 1.0 - step * i;
      const std::vector<double> error = errors(clip);
      for (size_t g = 0; g < error.size(); ++g) {
        if (!(error[g] < least[g])) continue;
        least[g] = error[g];
        best[g] = clip[g];
      }
    }
    return range_of(best);
  }

 private:
  bool whole_tensor() const { return config_.granularity == Granularity::per_tensor; }

  ClipRange range_of(const std::vector<double>& clip) const {
    std::vector<double> low;
    for (const double c : clip) low.push_back(-c);
    return uniform_range(w_, low, clip);
  }

  /// max|W| per clip: of every group of every row, or of the whole tensor.
  std::vector<double> magnitudes() const {
    const int64_t rows = whole_tensor() ? 1 : w_.size(0) * groups_;
    const auto [low, high] = kernels::min_max_rows(w_.reshape({rows, w_.count() / rows}));
    const std::vector<double> below = low.to_vector<double>(), above = high.to_vector<double>();
    std::vector<double> largest;
    for (size_t i = 0; i < below.size(); ++i) largest.push_back(std::max(-below[i], above[i]));
    return largest;
  }

  std::vector<double> errors(const std::vector<double>& clip) const {
    const Tensor quantized =
        nearest_on_min_max_grid(clamp_groups(w_, range_of(clip)), config_, layer_);
    const Tensor difference = kernels::sub(quantized, w_);
    std::vector<double> errors(clip.size(), 0.0);
    for (int64_t g = 0; g < groups_; ++g) {
      const std::vector<double> of_rows = row_errors(difference, g);
      for (size_t r = 0; r < of_rows.size(); ++r) {
        const size_t at =
            whole_tensor() ? 0 : r * static_cast<size_t>(groups_) + static_cast<size_t>(g);
        errors[at] += of_rows[r];
      }
    }
    return errors;
  }

  /// Squared norms of the columns of X_g difference_g^T: [out].
  std::vector<double> row_errors(const Tensor& difference, int64_t g) const {
    const int64_t in = w_.size(1), out = w_.size(0), tokens = x_.size(0);
    const Dtype dtype = w_.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    const Tensor y({tokens, out}, dtype, w_.device());
    kernels::gemm_strided({x_, g * group_, 0, in, tokens, group_}, Trans::no,
                          {difference, g * group_, 0, in, out, group_}, Trans::yes,
                          {y, 0, 0, out, tokens, out}, 1, 1.0, 0.0);
    return kernels::column_sums(kernels::mul(y, y)).to_vector<double>();
  }

  std::string layer_;
  Tensor w_;
  WeightConfig config_;
  Tensor x_;
  int64_t group_, groups_;
};

/// Whether the layer writes queries or keys, which meet in the softmax.
bool writes_queries_or_keys(Block& block, const Linear* linear) {
  const QueryKeyRows rows = block.query_key_rows();
  if (rows.queries != nullptr) return linear == rows.queries || linear == rows.keys;
  // A family that does not say so.
  const std::vector<std::vector<NamedLinear>> groups = linears_by_input(block);
  for (size_t i = 0; i + 1 < groups.size(); ++i) {
    if (groups[i + 1].front().name != block.attention_output_name()) continue;
    const bool reads = std::any_of(groups[i].begin(), groups[i].end(),
                                   [&](const NamedLinear& l) { return l.linear == linear; });
    if (!reads) return false;
    for (const ScalingSite& site : block.scaling_sites()) {
      if (site.consumers.front() != groups[i + 1].front().linear) continue;
      return site.producer != linear || site.parts > 1 || site.first_row > 0;  // all but the values
    }
    return true;
  }
  return false;
}

class AwqClip : public Preprocessor {
 public:
  std::string name() const override { return "awq_clip"; }
  std::string help() const override {
    return "clips weights by the error of their output, query and key projections apart (Lin et "
           "al. 2024)";
  }
  bool handles_weight_outliers() const override { return true; }
  bool needs_statistics() const override { return true; }

  void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
             PreprocessContext& context) override {
    for (const NamedLinear& layer : clamps_.layers_with_grid(model, block, context)) {
      if (writes_queries_or_keys(model.block(block), layer.linear)) {
        ++left_out_;
        continue;
      }
      if (context.poll) context.poll();
      const Tensor& w = layer.linear->weight.value();
      const WeightConfig config = context.weight_config(layer.name);
      check_weight_config(config, layer.name, layer.linear->in_features());
      const Tensor x = kernels::cast(statistics.of(layer.name).sample.to(w.device()), w.dtype());
      clamps_.clamp(layer, ClipSearch(layer, config, x).best());
    }
  }
  std::vector<std::string> notes(const PreprocessContext&) const override {
    std::vector<std::string> notes = clamps_.notes(name());
    notes.push_back(concat(name(), ": left ", left_out_,
                           " projections of queries and keys as they are, as published"));
    return notes;
  }

 private:
  ClampReport clamps_;
  int64_t left_out_ = 0;
};

[[maybe_unused]] const bool registered =
    preprocessors().add("awq_clip", [] { return std::make_unique<AwqClip>(); });

}  // namespace
}  // namespace cbq
