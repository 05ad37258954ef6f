// Text from the model itself: data-free calibration.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

/// Token segments sampled from the model itself at temperature 1 (data-free calibration): `count`
/// segments of `length` ids that start with BOS. Deterministic in the seed; segment i does not
/// depend on `count`. Keys and values of earlier tokens are kept (nn/decoder.h), so the work is
/// sampling_passes() tokens of forward passes, up to 64 segments together. `progress` is called
/// after every step with the token passes done; it may throw to stop. Throws NonFiniteError where
/// the model's logits hold NaN or infinity.
std::vector<std::vector<int32_t>> sample_segments(
    Transformer& model, int64_t count, int64_t length, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress = {});
/// How many tokens pass the model for that.
int64_t sampling_passes(const Transformer& model, int64_t count, int64_t length);

/// How often all blocks are read for that: once per token position for all segments whose keys and
/// values fit a quarter of the free memory. 0 for a model in memory. The ids are the same either
/// way.
int64_t sampling_reads(const Transformer& model, int64_t count, int64_t length);

}  // namespace cbq
