// Perplexity: exp of the mean negative log-likelihood of the tokens that a model had to predict.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

struct PerplexityResult {
  double nll_sum = 0.0;         // nats, over all scored tokens
  int64_t tokens = 0;           // scored tokens
  std::vector<double> segment;  // mean NLL of each segment
  double mean_nll() const { return nll_sum / static_cast<double>(tokens); }
  double perplexity() const;
};

/// Scores tokens 1 .. n-1 of every segment of n ids, each segment on its own (GPTQ protocol: no
/// context from the segment before). Segments may differ in length; those of equal length run
/// `batch` at a time. The result does not depend on `batch` beyond rounding. Throws
/// std::invalid_argument for an empty list, a segment of fewer than 2 ids or longer than the
/// context plus one, an id outside the vocabulary.
PerplexityResult perplexity(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                            int64_t batch = 8);

}  // namespace cbq
