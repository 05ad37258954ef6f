// What an equivalent transformation that is being learned makes of the parameters of a layer.
#pragma once

#include "autograd/var.h"

namespace cbq {

/// While such a transformation is learned, a linear layer or a norm computes with these in place of
/// its own parameters (implemented in quant/transforms/local/; nn/ knows only this interface). Both
/// are differentiable in the factors that are learned. `b` is undefined for a layer without a bias.
class ParameterTransform {
 public:
  virtual ~ParameterTransform() = default;
  virtual Var weight(const Var& w) const = 0;
  virtual Var bias(const Var& b, const Var& w) const = 0;
};

/// The equivalent transformation of one block, and the ParameterTransforms that it has put on the
/// block's layers.
class BlockTransform {
 public:
  virtual ~BlockTransform() = default;
  /// Off: the layers compute with their own parameters. The block's function is the same either
  /// way, but for rounding.
  virtual void set_active(bool active) = 0;
};

}  // namespace cbq
