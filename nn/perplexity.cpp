#include "nn/perplexity.h"

#include <cmath>

#include "kernels/ops.h"

namespace cbq {

double PerplexityResult::perplexity() const { return std::exp(mean_nll()); }

PerplexityResult perplexity(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                            int64_t batch) {
  check(!segments.empty(), "perplexity: no segments; the text is empty or shorter than a segment");
  NoGrad none;
  PerplexityResult result;
  size_t first = 0;
  while (first < segments.size()) {
    const size_t length = segments[first].size();
    check(length >= 2, "perplexity: segment ", first, " has ", length,
          " tokens; at least 2 are needed, one to read and one to predict");
    size_t last = first;
    while (last < segments.size() && segments[last].size() == length &&
           static_cast<int64_t>(last - first) < batch) {
      ++last;
    }
    const Sequence sequence{static_cast<int64_t>(last - first), static_cast<int64_t>(length) - 1};
    std::vector<int32_t> inputs, targets;
    for (size_t s = first; s < last; ++s) {
      for (const int32_t id : segments[s]) {
        check(id >= 0 && id < model.config.vocab_size, "perplexity: segment ", s,
              " holds token id ", id, ", outside the model's vocabulary of ",
              model.config.vocab_size, " (was the text tokenized for another model?)");
      }
      inputs.insert(inputs.end(), segments[s].begin(), segments[s].end() - 1);
      targets.insert(targets.end(), segments[s].begin() + 1, segments[s].end());
    }
    const Shape shape = {static_cast<int64_t>(inputs.size())};
    const Tensor ids = Tensor::from(inputs, shape, Dtype::i32, model.device());
    const Tensor next = Tensor::from(targets, shape, Dtype::i32, model.device());
    const std::vector<double> nll =
        kernels::cross_entropy(model.forward(ids, sequence).value(), next).to_vector<double>();
    for (size_t s = first; s < last; ++s) {
      double segment_sum = 0.0;
      for (size_t t = 0; t + 1 < length; ++t) segment_sum += nll[(s - first) * (length - 1) + t];
      result.nll_sum += segment_sum;
      result.tokens += static_cast<int64_t>(length) - 1;
      result.segment.push_back(segment_sum / static_cast<double>(length - 1));
    }
    first = last;
  }
  return result;
}

}  // namespace cbq
