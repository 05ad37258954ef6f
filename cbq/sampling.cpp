// Data-free calibration: text that the model itself finds probable.
#include <algorithm>
#include <cmath>

#include "cbq/pipeline.h"
#include "kernels/ops.h"
#include "kernels/philox.h"

namespace cbq {
namespace {

/// The id at which the cumulative softmax of `logits` passes `uniform`; sums in f64.
int32_t draw(const float* logits, int64_t vocabulary, double uniform) {
  const float top = *std::max_element(logits, logits + vocabulary);
  double total = 0.0;
  for (int64_t i = 0; i < vocabulary; ++i) total += std::exp(static_cast<double>(logits[i] - top));
  double left = uniform * total;
  for (int64_t i = 0; i < vocabulary; ++i) {
    left -= std::exp(static_cast<double>(logits[i] - top));
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(vocabulary - 1);
}

/// Extends every segment by one token.
void extend(Transformer& model, std::vector<std::vector<int32_t>>& segments, int64_t first,
            uint64_t seed) {
  const int64_t batch = static_cast<int64_t>(segments.size());
  const int64_t tokens = static_cast<int64_t>(segments.front().size());
  std::vector<int32_t> ids;
  std::vector<int64_t> last_rows;
  for (const std::vector<int32_t>& segment : segments) {
    ids.insert(ids.end(), segment.begin(), segment.end());
    last_rows.push_back(static_cast<int64_t>(ids.size()) - 1);
  }
  const Sequence sequence{batch, tokens};
  Var x = model.embed(Tensor::from(ids, {batch * tokens}, Dtype::i32, model.device()), sequence);
  for (int64_t b = 0; b < model.block_count(); ++b) x = model.block(b).forward(x, sequence);
  const Var last(kernels::gather_rows(x.value(), last_rows));  // only these predict
  const std::vector<float> logits = model.head(last).value().to_vector<float>();
  const int64_t vocabulary = model.config.vocab_size;
  for (int64_t s = 0; s < batch; ++s) {
    const double uniform =
        philox_uniform(seed, static_cast<uint64_t>(first + s), static_cast<uint64_t>(tokens));
    segments[static_cast<size_t>(s)].push_back(
        draw(logits.data() + s * vocabulary, vocabulary, uniform));
  }
}

}  // namespace

std::vector<std::vector<int32_t>> sample_segments(Transformer& model, int64_t count, int64_t length,
                                                  uint64_t seed) {
  check(count >= 1, "sample_segments: ", count, " segments; expected at least 1");
  check(length >= 2 && length <= model.config.context(), "sample_segments: length ", length,
        "; expected 2 to the model's context of ", model.config.context());
  check(model.config.bos_token_id >= 0,
        "sample_segments: the model has no BOS token to start from; calibrate on text instead");
  check(model.config.bos_token_id < model.config.vocab_size, "sample_segments: bos_token_id ",
        model.config.bos_token_id, " is outside the vocabulary of ", model.config.vocab_size,
        "; mend config.json");
  NoGrad none;
  constexpr int64_t batch = 64;
  std::vector<std::vector<int32_t>> all;
  for (int64_t first = 0; first < count; first += batch) {
    const auto size = static_cast<size_t>(std::min(batch, count - first));
    std::vector<std::vector<int32_t>> part(size, {static_cast<int32_t>(model.config.bos_token_id)});
    for (int64_t t = 1; t < length; ++t) extend(model, part, first, seed);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace cbq
