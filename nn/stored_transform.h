// StoredTransform: a part of the model that stands before a linear layer, or before the products of
// attention, and is no quantizer.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "autograd/var.h"

namespace cbq {

/// T: the online part that a transform, of the whole model or of a block, leaves before a layer.
///   Linear::online           y = W T(x) + b, with T's inverse in W
///   Block::attention_online  T(q), T(k) for every head, with T(q) T(k)^T = q k^T
/// It stays at inference, with and without quantizers. It is stored with the model
/// (cbq/quantized_folder.h) and read back by its kind (quant/transforms/stored_transforms.h).
class StoredTransform {
 public:
  virtual ~StoredTransform() = default;
  /// The name under which its reader is registered.
  virtual std::string kind() const = 0;
  /// What config.json says of it beside the kind: an object.
  virtual nlohmann::json record() const = 0;
  /// What the file of weights holds of it: name and f32 tensor.
  virtual std::vector<std::pair<std::string, Tensor>> tensors() const = 0;
  /// T(x) for every row of x [rows, width]; differentiable. The width: inputs of the layer, or
  /// head_dim.
  virtual Var apply(const Var& x) const = 0;
  /// W [out, in] -> W' with W' x = W T(x), in f64: for a format that has no place for T.
  virtual Tensor folded_into(const Tensor& w) const = 0;
};

}  // namespace cbq
