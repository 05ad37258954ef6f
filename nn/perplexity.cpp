#include "nn/perplexity.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "tensor/runtime/device_memory.h"

namespace cbq {
namespace {

/// Segments of one length that pass the model together.
struct Batch {
  size_t first, last;  // segments [first, last)
  Sequence sequence;
  Var hidden;  // the residual stream, while a pass is under way
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
    batches.push_back({first, last, {static_cast<int64_t>(last - first), tokens}, Var()});
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
Tensor ids_of(const Transformer& model, const Segments& segments, const Batch& batch,
              int64_t offset) {
  std::vector<int32_t> ids;
  for (size_t s = batch.first; s < batch.last; ++s) {
    const auto begin = segments[s].begin() + offset;
    ids.insert(ids.end(), begin, begin + batch.sequence.tokens);
  }
  return Tensor::from(ids, {static_cast<int64_t>(ids.size())}, Dtype::i32, model.device());
}

/// How many batches, from `first` on, pass the blocks together: every batch by itself where all
/// blocks are in memory; as many as may wait where a block has to be read for them.
size_t end_of_round(const Transformer& model, const std::vector<Batch>& batches, size_t first,
                    int64_t waiting_bytes) {
  size_t end = first + 1;
  if (!model.on_demand()) return end;
  const auto bytes_of = [&](const Batch& b) {
    return b.sequence.batch * b.sequence.tokens * model.config.hidden_size * size_of(model.dtype());
  };
  int64_t bytes = bytes_of(batches[first]);
  while (end < batches.size() && (bytes += bytes_of(batches[end])) <= waiting_bytes) ++end;
  return end;
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
void score(Transformer& model, const Segments& segments, Batch& batch, int64_t logits_bytes,
           PerplexityResult& result) {
  const std::vector<double> nll =
      nll_of_rows(model, batch.hidden.value(), ids_of(model, segments, batch, 1), logits_bytes);
  batch.hidden = Var();
  const auto tokens = static_cast<size_t>(batch.sequence.tokens);
  for (size_t s = 0; s < batch.last - batch.first; ++s) {
    double segment_sum = 0.0;
    for (size_t t = 0; t < tokens; ++t) segment_sum += nll[s * tokens + t];
    result.nll_sum += segment_sum;
    result.tokens += batch.sequence.tokens;
    result.segment.push_back(segment_sum / static_cast<double>(tokens));
  }
}

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(mean_nll()); }

PerplexityResult perplexity(Transformer& model, const Segments& segments, int64_t batch,
                            const PerplexityOptions& options) {
  check(!segments.empty(), "perplexity: no segments; the text is empty or shorter than a segment");
  NoGrad none;
  std::vector<Batch> batches = batches_of(segments, batch);
  check_ids(model, segments);
  const int64_t waiting = options.waiting_bytes > 0 || !model.on_demand()
                              ? options.waiting_bytes
                              : device_memory(model.device()).free / 4;
  const int64_t passes = static_cast<int64_t>(batches.size()) * model.block_count();
  int64_t done = 0;
  PerplexityResult result;
  for (size_t first = 0, end = 0; first < batches.size(); first = end) {
    end = end_of_round(model, batches, first, waiting);
    for (size_t i = first; i < end; ++i) {
      batches[i].hidden = model.embed(ids_of(model, segments, batches[i], 0), batches[i].sequence);
    }
    for (int64_t b = 0; b < model.block_count(); ++b) {
      const LoadedBlock loaded(model, b);
      for (size_t i = first; i < end; ++i) {
        batches[i].hidden = model.block(b).forward(batches[i].hidden, batches[i].sequence);
        if (options.progress) options.progress(++done, passes);
      }
    }
    for (size_t i = first; i < end; ++i)
      score(model, segments, batches[i], options.logits_bytes, result);
  }
  return result;
}

}  // namespace cbq
