// What sampling from a model (sample_segments, cbq/pipeline.h) costs where its blocks are loaded on
// demand.
#pragma once

#include <cstdint>

#include "nn/transformer.h"

namespace cbq {

/// How often all blocks are read to sample `count` segments of `length` ids: once per token
/// position for all segments whose keys and values fit a quarter of the free memory. 0 for a model
/// in memory. The ids are the same either way.
int64_t sampling_reads(const Transformer& model, int64_t count, int64_t length);

}  // namespace cbq
