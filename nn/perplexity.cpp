#include "nn/perplexity.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "nn/block_walk.h"

namespace cbq {
namespace {

/// Segments [first, last), of one length, pass the model together.
struct Batch {
  size_t first, last;
  Sequence sequence;
};

using Segments = std::vector<std::vector<int32_t>>;

// Most tokens in a batch when the caller gives no batch size. The limit bounds the memory of the
// feed-forward part.
constexpr int64_t tokens_together = 16384;

std::vector<Batch> batches_of(const Segments& segments, int64_t batch) {
  std::vector<Batch> batches;
  for (size_t first = 0; first < segments.size(); first = batches.back().last) {
    const size_t length = segments[first].size();
    check(length >= 2, "perplexity: segment ", first, " has ", length,
          " tokens; at least 2 are needed, one to read and one to predict");
    size_t last = first + 1;
    const auto tokens = static_cast<int64_t>(length) - 1;
    const int64_t most = batch > 0 ? batch : std::clamp<int64_t>(tokens_together / tokens, 1, 8);
    while (last < segments.size() && segments[last].size() == length &&
           static_cast<int64_t>(last - first) < most) {
      ++last;
    }
    batches.push_back({first, last, {static_cast<int64_t>(last - first), tokens}});
  }
  return batches;
}

void check_ids(const Transformer& model, const Segments& segments) {
  for (size_t s = 0; s < segments.size(); ++s) {
    for (const int32_t id : segments[s]) {
      check(id >= 0 && id < model.config.vocab_size, "perplexity: segment ", s, " holds token id ",
            id, ", outside the model's vocabulary of ", model.config.vocab_size,
            " (was the text tokenized for another model?)");
    }
  }
}

/// The ids that are read (offset 0) or predicted (offset 1).
std::vector<int32_t> ids_of(const Segments& segments, const Batch& batch, int64_t offset) {
  std::vector<int32_t> ids;
  for (size_t s = batch.first; s < batch.last; ++s) {
    const auto begin = segments[s].begin() + offset;
    ids.insert(ids.end(), begin, begin + batch.sequence.tokens);
  }
  return ids;
}

/// Negative log-likelihood of every row's target, with the logits of a slice of rows at a time: of
/// a whole batch they would take more than the rest of the pass where the vocabulary is large.
std::vector<double> nll_of_rows(Transformer& model, const Tensor& hidden, const Tensor& target,
                                int64_t logits_bytes) {
  constexpr int64_t unit = 128;  // rows: fewer would make the head's product slow
  const int64_t rows = hidden.size(0);
  const int64_t fit = logits_bytes / (model.config.vocab_size * size_of(model.dtype()));
  const int64_t step = std::max(fit / unit, int64_t{1}) * unit;
  std::vector<double> all;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    const Tensor logits = model.head(Var(hidden.slice(begin, end))).value();
    const auto part = kernels::cross_entropy(logits, target.slice(begin, end)).to_vector<double>();
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

/// Adds the batch's segments to the result.
void score(Transformer& model, const Segments& segments, const Batch& batch, const Tensor& hidden,
           int64_t logits_bytes, PerplexityResult& result) {
  const std::vector<int32_t> next = ids_of(segments, batch, 1);
  const Tensor target = Tensor::from(next, {hidden.size(0)}, Dtype::i32, model.device());
  const std::vector<double> nll = nll_of_rows(model, hidden, target, logits_bytes);
  const auto tokens = static_cast<size_t>(batch.sequence.tokens);
  for (size_t s = 0; s < batch.last - batch.first; ++s) {
    double segment_sum = 0.0;
    for (size_t t = 0; t < tokens; ++t) segment_sum += nll[s * tokens + t];
    result.nll_sum += segment_sum;
    result.tokens += batch.sequence.tokens;
    result.segment_nll.push_back(segment_sum);
    result.segment.push_back(segment_sum / static_cast<double>(tokens));
  }
}

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(mean_nll()); }

PerplexityResult perplexity(Transformer& model, const Segments& segments, int64_t batch,
                            const PerplexityOptions& options) {
  check(!segments.empty(), "perplexity: no segments; the text is empty or shorter than a segment");
  NoGrad none;
  const std::vector<Batch> batches = batches_of(segments, batch);
  check_ids(model, segments);
  std::vector<TokenBatch> read;
  for (const Batch& b : batches) read.push_back({ids_of(segments, b, 0), b.sequence});
  const int64_t passes = static_cast<int64_t>(batches.size()) * model.block_count();
  int64_t done = 0;
  BatchWalkOptions walk;
  walk.waiting_bytes = options.waiting_bytes;
  walk.passed = [&](size_t) {
    if (options.progress) options.progress(++done, passes);
  };
  PerplexityResult result;
  walk_batches(
      model, read,
      [&](size_t i, const Tensor& hidden) {
        score(model, segments, batches[i], hidden, options.logits_bytes, result);
      },
      walk);
  return result;
}

}  // namespace cbq
