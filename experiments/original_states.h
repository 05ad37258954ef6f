// What cells are compared with: the predictions of the original model on the test texts.
//
// Logits of all test tokens would take vocabulary * 4 bytes per token. The residual stream behind
// the last block takes hidden size * 4 and gives the logits by one product with the head, which
// every cell has in memory anyway. So the streams are kept on the disk, computed once for all cells
// (of the same transforms of the whole model), whole or block by block.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "cbq/stream.h"
#include "cbq/watch.h"
#include "nn/formats/hdf5.h"
#include "nn/transformer.h"

namespace cbq {

/// The residual stream behind the last block of the original model, for every scored token of one
/// text, in order.
class OriginalStates {
 public:
  /// From `folder`/<key>.h5, where the key is that of the model, the text and the batch; computed
  /// and written first where it is not there, is damaged or belongs to another version (said
  /// through `say`, which may be empty). `model` is the original one, `digest` its digest_of.
  /// Throws std::runtime_error with the bytes needed where the disk is too small, Interrupted.
  OriginalStates(Transformer& model, const std::string& digest, const Segments& segments,
                 int64_t batch, const std::filesystem::path& folder,
                 const std::function<void(const std::string&)>& say, const Watch& watch);

  /// Of the scored tokens [begin, end): [end - begin, hidden].
  Tensor rows(int64_t begin, int64_t end, Device device) const {
    return file_->read_rows("states", begin, end, device);
  }

 private:
  std::shared_ptr<Hdf5File> file_;
};

/// The head of a model as it was when this was made. Quantization leaves the head's matrix as it
/// is, but may learn the norm in front of it.
class OriginalHead {
 public:
  explicit OriginalHead(Transformer& model);
  /// Logits that the original head gives to `hidden`; `model` is the same model, or one that was
  /// quantized from it. Its own norm is in its place again afterwards.
  Tensor logits(Transformer& model, const Tensor& hidden) const;

 private:
  Tensor norm_weight_, norm_bias_;  // undefined where there is none
};

}  // namespace cbq
