// Layers whose weights a model folder holds as codes: what open_model needs to know of them.
#pragma once

#include <string>

#include "nn/formats/safetensors.h"
#include "nn/transformer.h"

namespace cbq {

/// A folder of floating-point parameters, some of which have other tensors in their place. Whoever
/// knows these tensors (cbq/exporters/layout_reader.h) derives from this class.
class EncodedLayers {
 public:
  virtual ~EncodedLayers() = default;
  /// Called once, before any tensor is read. `shapes` is the folder's model without memory. Looks
  /// at the headers of all tensors of encoded layers; throws std::runtime_error naming file and
  /// tensor for what does not fit.
  virtual void examine(const Transformer& shapes, const Checkpoint& checkpoint) = 0;
  /// After examine(). Whether the parameter at `path` has other tensors in its place.
  virtual bool encodes(const std::string& path) const = 0;
  /// After examine(). Whether `tensor` is one of these.
  virtual bool uses(const std::string& tensor) const = 0;
  /// Gives a block its encoded layers; it has all its other parameters already. Throws
  /// std::runtime_error naming file and tensor.
  virtual void fill(Block& block, const std::string& prefix,
                    const Checkpoint& checkpoint) const = 0;
};

/// open_model of a folder with encoded layers.
std::unique_ptr<Transformer> open_encoded_model(const std::filesystem::path& folder, Dtype dtype,
                                                Device device,
                                                std::unique_ptr<EncodedLayers> encoded);

}  // namespace cbq
