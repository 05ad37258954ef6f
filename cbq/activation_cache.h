// The original model's block inputs for every calibration segment: targets of the reconstruction.
//
// Computed once per (model, tokens, dtype) and shared by all cells of a table. The quantized stream
// is not here: it belongs to one run and its settings (cbq/pipeline.cpp).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cbq/stream.h"
#include "cbq/watch.h"
#include "nn/transformer.h"

namespace cbq {

class ActivationCache {
 public:
  virtual ~ActivationCache() = default;
  /// Inputs of block `boundary` for segments [begin, end): [end - begin, tokens, hidden], on the
  /// device it was made for; not to be written to. The boundary behind the last block is the output
  /// of the last block.
  virtual Tensor get(int64_t boundary, int64_t begin, int64_t end) = 0;
  virtual int64_t segments() const = 0;
  virtual int64_t tokens() const = 0;
  /// Blocks + 1.
  virtual int64_t boundaries() const = 0;
};

/// Bytes of all boundaries.
int64_t activation_bytes(const Transformer& model, const Segments& segments);

/// Runs the model as it stands (blocks on demand one after the other) over `segments` (ids [tokens]
/// each), segments_per_pass at a time, and keeps all boundaries in memory. Throws
/// std::invalid_argument for impossible segments, NonFiniteError naming the block when the model
/// produces NaN or infinity, Interrupted when `watch` asks for it, here and below.
std::shared_ptr<ActivationCache> cache_in_memory(Transformer& model, const Segments& segments,
                                                 const Watch& watch = {});

/// The same, but of the boundaries only those that `boundaries` names (in any order, any number of
/// times) are kept; get() throws std::out_of_range for others.
std::shared_ptr<ActivationCache> cache_in_memory(Transformer& model, const Segments& segments,
                                                 const std::vector<int64_t>& boundaries,
                                                 const Watch& watch);

/// The same for a model whose blocks are loaded on demand, without keeping what no window asks for.
/// A boundary is computed when it is asked for, through blocks fetched from the model's file, so
/// changes to blocks in memory do not matter. `boundaries`: all that will be asked for, in any
/// order; one that is asked for twice stands there twice. get() throws std::out_of_range for any
/// other. `model` must live as long as the cache.
std::shared_ptr<ActivationCache> cache_on_the_way(Transformer& model, const Segments& segments,
                                                  const std::vector<int64_t>& boundaries,
                                                  const Watch& watch = {});

/// The same in an HDF5 file `folder`/<key>.h5 of the activations' identity: opened if it is there,
/// as it was written (its checksum is compared, which reads it once) and of this very identity,
/// else computed and written. Says (through `say`, may be empty) the size before writing, and why a
/// file that is there is not used. The file takes its name only when it is complete.
/// `model_digest`: digest_of(model), or empty to have it computed. Throws std::runtime_error naming
/// the size needed when the disk is too small.
std::shared_ptr<ActivationCache> cache_on_disk(Transformer& model, const Segments& segments,
                                               const std::filesystem::path& folder,
                                               const std::function<void(const std::string&)>& say,
                                               const Watch& watch = {},
                                               std::string model_digest = "");

}  // namespace cbq
