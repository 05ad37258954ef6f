// Data-free calibration: text that the model itself finds probable.
#include "cbq/sampling.h"

#include <algorithm>

#include "cbq/token_draw.h"
#include "kernels/formulas/philox.h"
#include "kernels/launch/parallel_errors.h"
#include "nn/decoder.h"
#include "tensor/runtime/device_memory.h"

namespace cbq {
namespace {

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
          draw_token(all.data() + i * vocabulary, vocabulary, /*temperature=*/1.0, uniform,
                     weights.data() + i * vocabulary,
                     "check the model's weights, try --dtype f32, or calibrate on text instead");
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

/// Groups that pass the blocks together: one where all blocks are in memory; where each has to be
/// read for a token, as many as keep keys and values in a quarter of the free memory. No id depends
/// on it.
int64_t groups_together(const Transformer& model, int64_t groups, int64_t length) {
  if (!model.on_demand()) return 1;
  const int64_t bytes = group_size(model, length) * Decoder::bytes(model, length);
  return std::clamp<int64_t>(device_memory(model.device()).free / 4 / std::max<int64_t>(bytes, 1),
                             1, groups);
}

int64_t group_count(const Transformer& model, int64_t count, int64_t length) {
  const int64_t group = group_size(model, length);
  return (count + group - 1) / group;
}

/// Groups [first, first + decoders) on their way: the last ids drawn of each, and all so far.
class SampledGroups {
 public:
  SampledGroups(Transformer& model, int64_t first, int64_t count, int64_t size, int64_t length)
      : model_(model), first_(first * size), size_(size) {
    const auto start = static_cast<int32_t>(model.config.bos_token_id);
    for (int64_t g = 0; g < count; ++g) decoders_.emplace_back(model, size, length);
    last_.assign(static_cast<size_t>(count), Ids(static_cast<size_t>(size), start));
    segments_.assign(static_cast<size_t>(count * size), {start});
  }

  /// One more token for every segment, at `position`.
  void step(int64_t position, uint64_t seed, const std::function<void()>& group_done) {
    std::vector<Tensor> read;
    for (const Ids& ids : last_) {
      read.push_back(Tensor::from(ids, {size_}, Dtype::i32, model_.device()));
    }
    const std::vector<Tensor> logits = Decoder::next_of_each(decoders_, read);
    for (size_t g = 0; g < logits.size(); ++g) {
      const int64_t begin = static_cast<int64_t>(g) * size_;
      last_[g] = draw_each(logits[g], first_ + begin, position, seed);
      for (int64_t s = 0; s < size_; ++s) {
        segments_[static_cast<size_t>(begin + s)].push_back(last_[g][static_cast<size_t>(s)]);
      }
      group_done();
    }
  }
  const std::vector<std::vector<int32_t>>& segments() const { return segments_; }

 private:
  using Ids = std::vector<int32_t>;
  Transformer& model_;
  int64_t first_, size_;
  std::vector<Decoder> decoders_;
  std::vector<Ids> last_;
  std::vector<Ids> segments_;
};

}  // namespace

int64_t sampling_passes(const Transformer& model, int64_t count, int64_t length) {
  return group_count(model, count, length) * group_size(model, length) * (length - 1);
}

int64_t sampling_reads(const Transformer& model, int64_t count, int64_t length) {
  if (!model.on_demand()) return 0;
  const int64_t groups = group_count(model, count, length);
  const int64_t together = groups_together(model, groups, length);
  return (groups + together - 1) / together * (length - 1);
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
  const int64_t size = group_size(model, length);
  const int64_t groups = group_count(model, count, length);
  const int64_t together = groups_together(model, groups, length);
  const int64_t total = sampling_passes(model, count, length);
  std::vector<std::vector<int32_t>> all;
  int64_t done = 0;
  for (int64_t first = 0; first < groups; first += together) {
    SampledGroups sampled(model, first, std::min(together, groups - first), size, length);
    for (int64_t t = 1; t < length; ++t) {
      sampled.step(t, seed, [&] {
        done += size;
        if (progress) progress(done, total);
      });
    }
    all.insert(all.end(), sampled.segments().begin(), sampled.segments().end());
  }
  // The last group is sampled as a whole, too, and what is too much of it is dropped.
  all.resize(static_cast<size_t>(count));
  return all;
}

}  // namespace cbq
