// The walk over the blocks of a model: the one place that loads a block (LoadedBlock), lets it be
// used and releases it. (A quantization run keeps windows of blocks and does that itself:
// cbq/pipeline.h.)
//
// Everything here works on both kinds of models with the same results, bit for bit: where all
// blocks are in memory nothing is loaded and nothing released; where they are loaded on demand
// (open_model), one block is in memory at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/attention/varlen_rows.h"
#include "nn/transformer.h"

namespace cbq {

using BlockVisitor = std::function<void(Block& block, int64_t i)>;

/// Calls visit(block, i) for every block in order. A block that is not in memory is loaded for its
/// visit, and released after it. `poll`, which may be empty, is called before every block and may
/// throw to stop.
void for_each_block(Transformer& model, const BlockVisitor& visit,
                    const std::function<void()>& poll = {});

/// The same for blocks [begin, end) of a model whose blocks are loaded on demand, as they were
/// opened: fetched beside those that the model has in memory, which may have changed.
void for_each_opened_block(const Transformer& model, int64_t begin, int64_t end,
                           const BlockVisitor& visit);

/// Transformer::load_all_blocks; `poll` is called with the number of every block before it is
/// loaded, and may throw to stop.
void load_all_blocks(Transformer& model, const std::function<void(int64_t i)>& poll);

/// Tokens that pass a model together.
struct TokenBatch {
  std::vector<int32_t> ids;  // of all rows, one after the other
  Sequence sequence;         // `varlen` is set by the walk
  /// Not empty: the rows are those of sequences of any length (VarlenRows), and `sequence` is one
  /// batch of all rows.
  std::vector<VarlenGroup> groups = {};
};

struct BatchWalkOptions {
  /// For a model whose blocks are loaded on demand: bytes of residual streams that may wait between
  /// two blocks. A block is read once for all batches that fit (at least one). 0: a quarter of the
  /// free memory of the model's device; where not all batches fit into that and a quarter of the
  /// free host memory is more, streams wait on the host.
  int64_t waiting_bytes = 0;
  /// Called whenever a batch has passed a block; may throw to stop.
  std::function<void(size_t batch)> passed = {};
};

/// Called with the residual stream of a batch behind the last block, [rows, hidden] on the model's
/// device.
using BatchVisitor = std::function<void(size_t batch, const Tensor& hidden)>;

/// Sends batches from the embedding through all blocks; `arrived` gets each, in order. Nothing is
/// recorded for a backward pass. Where all blocks are in memory, one batch after the other passes
/// the model; else as many as may wait pass block after block together.
/// Throws std::invalid_argument where a batch does not fit the model (Transformer::embed).
void walk_batches(Transformer& model, const std::vector<TokenBatch>& batches,
                  const BatchVisitor& arrived, const BatchWalkOptions& options = {});

}  // namespace cbq
