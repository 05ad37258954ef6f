// The original model's block inputs for every calibration segment: targets of the reconstruction.
//
// Computed once per (model, tokens, dtype) and shared by all cells of a table. The quantized stream is not
// here: it belongs to one run and its settings (cbq/reconstructor.h).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

class ActivationCache {
 public:
  virtual ~ActivationCache() = default;
  /// Inputs of block `boundary` for segments [begin, end): [end - begin, tokens, hidden], on the device it was
  /// made for. Boundary blocks() is the output of the last block.
  virtual Tensor get(int64_t boundary, int64_t begin, int64_t end) = 0;
  virtual int64_t segments() const = 0;
  virtual int64_t tokens() const = 0;
  virtual int64_t boundaries() const = 0;
};

/// Key: hash of the model's parameters, the token ids and the dtype.
std::string activation_key(Transformer& model, const std::vector<std::vector<int32_t>>& segments);

/// Runs the untouched model over `segments` (ids [tokens] each) and keeps all boundaries in memory.
std::shared_ptr<ActivationCache> cache_in_memory(Transformer& model,
                                                 const std::vector<std::vector<int32_t>>& segments,
                                                 int64_t batch);

/// The same in an HDF5 file `folder`/<key>.h5: opened if it is there and complete, else computed and written
/// (states its size first, through `say`). A file from an interrupted write is never used: it is published by
/// rename when complete. Throws when the disk is full, naming the size needed.
std::shared_ptr<ActivationCache> cache_on_disk(Transformer& model,
                                               const std::vector<std::vector<int32_t>>& segments,
                                               int64_t batch, const std::filesystem::path& folder,
                                               const std::function<void(const std::string&)>& say);

}  // namespace cbq
