// Data-free calibration: text that the model itself finds probable.
#include <algorithm>
#include <cmath>

#include "cbq/pipeline.h"
#include "kernels/formulas/philox.h"
#include "kernels/launch/parallel_errors.h"
#include "nn/decoder.h"

namespace cbq {
namespace {

/// The id at which the cumulative softmax of `logits` passes `uniform`; sums in f64. `weights` has
/// room for one number per logit. Throws NonFiniteError where the softmax is not a number.
int32_t draw(const float* logits, int64_t vocabulary, double uniform, double* weights) {
  const float top = *std::max_element(logits, logits + vocabulary);
  double total = 0.0;
  for (int64_t i = 0; i < vocabulary; ++i) {
    weights[i] = std::exp(static_cast<double>(logits[i] - top));
    total += weights[i];
  }
  if (!std::isfinite(total)) {  // NaN passes no comparison, so every draw would be the last id
    throw NonFiniteError(
        "sampling from the model: its logits hold NaN or infinity; check the model's weights, try "
        "--dtype f32, or calibrate on text instead");
  }
  double left = uniform * total;
  for (int64_t i = 0; i < vocabulary; ++i) {
    left -= weights[i];
    if (left < 0.0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(vocabulary - 1);
}

/// One more token behind each row's logits; row i is segment first + i.
std::vector<int32_t> draw_each(const Tensor& logits, int64_t first, int64_t position,
                               uint64_t seed) {
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const std::vector<float> all = logits.to_vector<float>();
  std::vector<double> weights(all.size());
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  ParallelErrors errors;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows; ++i) {
    errors.guard([&] {
      const double uniform =
          philox_uniform(seed, static_cast<uint64_t>(first + i), static_cast<uint64_t>(position));
      ids[static_cast<size_t>(i)] =
          draw(all.data() + i * vocabulary, vocabulary, uniform, weights.data() + i * vocabulary);
    });
  }
  errors.rethrow();
  return ids;
}

constexpr int64_t most_together = 64;
constexpr int64_t most_cache_bytes = int64_t{4} << 30;

/// Segments that are sampled together: a power of two whose keys and values take 4 GiB at most. It
/// follows from model and length alone, neither from `count` nor from free memory: the last bits of
/// a matrix product may depend on its number of rows, and with them an id.
int64_t group_size(const Transformer& model, int64_t length) {
  int64_t size = most_together;
  while (size > 1 && size * Decoder::bytes(model, length) > most_cache_bytes) size /= 2;
  return size;
}

}  // namespace

int64_t sampling_passes(const Transformer& model, int64_t count, int64_t length) {
  const int64_t group = group_size(model, length);
  return (count + group - 1) / group * group * (length - 1);
}

std::vector<std::vector<int32_t>> sample_segments(
    Transformer& model, int64_t count, int64_t length, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  check(count >= 1, "sample_segments: ", count, " segments; expected at least 1");
  check(length >= 2 && length <= model.config.context(), "sample_segments: length ", length,
        "; expected 2 to the model's context of ", model.config.context());
  check(model.config.bos_token_id >= 0,
        "sample_segments: the model has no BOS token to start from; calibrate on text instead");
  check(model.config.bos_token_id < model.config.vocab_size, "sample_segments: bos_token_id ",
        model.config.bos_token_id, " is outside the vocabulary of ", model.config.vocab_size,
        "; mend config.json");
  const int64_t group = group_size(model, length);
  const int64_t total = sampling_passes(model, count, length);
  std::vector<std::vector<int32_t>> all;
  int64_t done = 0;
  for (int64_t first = 0; first < count; first += group) {
    Decoder decoder(model, group, length);
    std::vector<int32_t> ids(static_cast<size_t>(group),
                             static_cast<int32_t>(model.config.bos_token_id));
    // The last group is sampled as a whole, too, and what is too much of it is dropped.
    const auto wanted = static_cast<size_t>(std::min(group, count - first));
    std::vector<std::vector<int32_t>> part(wanted, {ids[0]});
    for (int64_t t = 1; t < length; ++t) {
      const Tensor logits = decoder.next(Tensor::from(ids, {group}, Dtype::i32, model.device()));
      ids = draw_each(logits, first, t, seed);
      for (size_t s = 0; s < wanted; ++s) part[s].push_back(ids[s]);
      done += group;
      if (progress) progress(done, total);
    }
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace cbq
