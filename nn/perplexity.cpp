#include "nn/perplexity.h"

#include <algorithm>
#include <cmath>

#include "kernels/divergence.h"
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

/// As many rows of logits as fit, a multiple of 128: fewer would make the head's product slow.
int64_t rows_of_logits(const Transformer& model, int64_t bytes) {
  constexpr int64_t unit = 128;
  const int64_t fit = bytes / (model.config.vocab_size * size_of(model.dtype()));
  return std::max(fit / unit, int64_t{1}) * unit;
}

/// Adds the divergence of these logits from the reference's, of the scored tokens from `first` on.
void add_divergence(const Transformer& model, const Tensor& logits, int64_t first,
                    const PerplexityOptions& options, PerplexityResult& result) {
  if (!options.reference_logits) return;
  constexpr int64_t reference_bytes = int64_t{32} << 20;
  const int64_t rows = logits.size(0), step = rows_of_logits(model, reference_bytes);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    const auto [kl, agrees] = kernels::divergence(
        logits.slice(begin, end), options.reference_logits(first + begin, first + end));
    for (const double value : kl.to_vector<double>()) {
      result.token_kl.push_back(static_cast<float>(value));
    }
    for (const double value : agrees.to_vector<double>()) {
      result.token_agrees.push_back(value != 0.0);
    }
  }
}

/// Negative log-likelihood of every row's target, with the logits of a slice of rows at a time: of
/// a whole batch they would take more than the rest of the pass where the vocabulary is large.
std::vector<double> nll_of_rows(Transformer& model, const Tensor& hidden, const Tensor& target,
                                const PerplexityOptions& options, PerplexityResult& result) {
  const int64_t rows = hidden.size(0), step = rows_of_logits(model, options.logits_bytes);
  std::vector<double> all;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    const Tensor logits = model.head(Var(hidden.slice(begin, end))).value();
    const auto part = kernels::cross_entropy(logits, target.slice(begin, end)).to_vector<double>();
    all.insert(all.end(), part.begin(), part.end());
    add_divergence(model, logits, result.tokens + begin, options, result);
  }
  return all;
}

/// Adds the batch's segments to the result.
void score(Transformer& model, const Segments& segments, const Batch& batch, const Tensor& hidden,
           const PerplexityOptions& options, PerplexityResult& result) {
  const std::vector<int32_t> next = ids_of(segments, batch, 1);
  const Tensor target = Tensor::from(next, {hidden.size(0)}, Dtype::i32, model.device());
  const std::vector<double> nll = nll_of_rows(model, hidden, target, options, result);
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

void walk(Transformer& model, const Segments& segments, const std::vector<Batch>& batches,
          const PerplexityOptions& options,
          const std::function<void(const Batch& batch, const Tensor& hidden)>& arrived) {
  NoGrad none;
  check_ids(model, segments);
  std::vector<TokenBatch> read;
  for (const Batch& b : batches) read.push_back({ids_of(segments, b, 0), b.sequence});
  const int64_t passes = static_cast<int64_t>(batches.size()) * model.block_count();
  int64_t done = 0;
  BatchWalkOptions walking;
  walking.waiting_bytes = options.waiting_bytes;
  walking.passed = [&](size_t) {
    if (options.progress) options.progress(++done, passes);
  };
  walk_batches(
      model, read, [&](size_t i, const Tensor& hidden) { arrived(batches[i], hidden); }, walking);
}

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(mean_nll()); }

PerplexityResult perplexity(Transformer& model, const Segments& segments, int64_t batch,
                            const PerplexityOptions& options) {
  check(!segments.empty(), "perplexity: no segments; the text is empty or shorter than a segment");
  const std::vector<Batch> batches = batches_of(segments, batch);
  PerplexityResult result;
  walk(model, segments, batches, options, [&](const Batch& b, const Tensor& hidden) {
    score(model, segments, b, hidden, options, result);
  });
  return result;
}

void walk_segments(Transformer& model, const Segments& segments, int64_t batch,
                   const PerplexityOptions& options,
                   const std::function<void(int64_t first, const Tensor& hidden)>& arrived) {
  check(!segments.empty(), "walk_segments: no segments");
  int64_t first = 0;
  walk(model, segments, batches_of(segments, batch), options,
       [&](const Batch&, const Tensor& hidden) {
         arrived(first, hidden);
         first += hidden.size(0);
       });
}

}  // namespace cbq
