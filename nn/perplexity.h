// Perplexity: exp of the mean negative log-likelihood of the tokens that a model had to predict.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

struct PerplexityResult {
  double nll_sum = 0.0;             // nats, over all scored tokens
  int64_t tokens = 0;               // scored tokens
  std::vector<double> segment;      // mean NLL of each segment
  std::vector<double> segment_nll;  // nats: sum over the scored tokens of each segment
  /// Of every scored token, where a reference was given: KL(reference || model) over the vocabulary
  /// in nats, and whether both give one token the largest probability. Else empty.
  std::vector<float> token_kl;
  std::vector<bool> token_agrees;
  double mean_nll() const { return nll_sum / static_cast<double>(tokens); }
  double perplexity() const;
};

struct PerplexityOptions {
  /// Called whenever a batch has passed a block, with how many of all such passes are done; may
  /// throw to stop.
  std::function<void(int64_t done, int64_t total)> progress;
  /// As in BatchWalkOptions (nn/block_walk.h).
  int64_t waiting_bytes = 0;
  /// Bytes of logits that are computed at a time: the head and its loss go through a batch in
  /// slices of rows, of 128 or a multiple. The result does not depend on it beyond rounding.
  int64_t logits_bytes = int64_t{256} << 20;
  /// The logits of a reference model for the scored tokens [begin, end), counted over all segments
  /// in order, [end - begin, vocabulary] on the model's device; may be empty. They are asked for in
  /// slices of at most 32 MiB or 128 tokens, and cost as much time as the model's own.
  std::function<Tensor(int64_t begin, int64_t end)> reference_logits;
};

/// Scores tokens 1 .. n-1 of every segment of n ids, each segment on its own (GPTQ protocol: no
/// context from the segment before). Segments may differ in length; those of equal length run
/// `batch` at a time; 0: as many as make 16,384 tokens, 8 at most. The result does not depend on
/// `batch` beyond rounding, and not at all on how blocks are loaded. Throws std::invalid_argument
/// for an empty list, a segment of fewer than 2 ids or longer than the context plus one, an id
/// outside the vocabulary.
PerplexityResult perplexity(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                            int64_t batch = 0, const PerplexityOptions& options = {});

/// Sends the same batches as perplexity() through all blocks. `arrived` gets the residual stream
/// behind the last block, [rows, hidden], of the scored tokens from number `first` on, counted over
/// all segments: bit for bit what perplexity() gives to the head.
void walk_segments(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                   int64_t batch, const PerplexityOptions& options,
                   const std::function<void(int64_t first, const Tensor& hidden)>& arrived);

}  // namespace cbq
