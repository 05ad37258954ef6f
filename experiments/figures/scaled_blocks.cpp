#include "experiments/figures/scaled_blocks.h"

#include "cbq/quantizers.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

/// Of every segment the ids that are read: all but the last.
Segments read_ids(const Segments& segments) {
  Segments read;
  for (const std::vector<int32_t>& segment : segments) {
    check(segment.size() >= 2, "a segment of ", segment.size(),
          " ids has no token to predict; take longer ones (--segment-length)");
    read.emplace_back(segment.begin(), segment.end() - 1);
  }
  return read;
}

}  // namespace

ScaledBlocks::ScaledBlocks(Transformer& model, const Settings& settings, const Segments& segments,
                           Poll poll)
    : model_(model), segments_(segments), poll_(std::move(poll)) {
  check_layers(model, settings);
  remove_quantizers(model);
  attach_quantizers(model, {0, model.block_count()}, settings, Tensor(), {}, poll_);
  streams_.resize(static_cast<size_t>(model.block_count()) + 1);
  streams_.front() = embed_segments(model, read_ids(segments), poll_);
}

ScaledBlocks::~ScaledBlocks() { remove_quantizers(model_); }

void ScaledBlocks::set_scales(int64_t block, double a) {
  check(a > -1.0, "block ", block, ": a scale times ", 1.0 + a, "; expected a factor above 0");
  for (const WindowLinear& l : linears_of(model_, {block, 1})) {
    const QuantizedTransform* q = l.quantizers();
    if (q == nullptr || !q->weight_quantizer) continue;
    const std::vector<Var> factors = q->weight_quantizer->variables("scale");
    check(factors.size() == 1, l.path, ": its scale has ", factors.size(),
          " variables; scales are multiplied on grid 'relative'");
    kernels::fill(factors.front().value(), a);
  }
}

double ScaledBlocks::loss(const std::vector<double>& a) {
  check(a.size() + 1 == streams_.size(), a.size(), " multipliers for ", streams_.size() - 1,
        " blocks");
  size_t first = 0;
  while (first < current_.size() && current_[first] == a[first]) ++first;
  current_.resize(first);  // what a stop leaves is true
  for (size_t b = first; b < a.size(); ++b) {
    const auto block = static_cast<int64_t>(b);
    set_scales(block, a[b]);
    streams_[b + 1] = run_blocks(model_, {block, 1}, streams_[b], poll_);
    current_.push_back(a[b]);
    ++block_runs_;
  }
  return loss_of_head();
}

double ScaledBlocks::loss_of_head() {
  NoGrad none;
  const Tensor& last = streams_.back();
  const int64_t tokens = last.size(1), hidden = last.size(2);
  double sum = 0.0;
  for (size_t s = 0; s < segments_.size(); ++s) {
    if (poll_) poll_();
    const auto at = static_cast<int64_t>(s);
    const std::vector<int32_t> next(segments_[s].begin() + 1, segments_[s].end());
    const Tensor rows = last.slice(at, at + 1).to(model_.device()).reshape({tokens, hidden});
    const Tensor target = Tensor::from(next, {tokens}, Dtype::i32, model_.device());
    const Tensor nll = kernels::cross_entropy(model_.head(Var(rows)).value(), target);
    for (const double value : nll.to_vector<double>()) sum += value;
  }
  return sum / static_cast<double>(static_cast<int64_t>(segments_.size()) * tokens);
}

}  // namespace cbq
