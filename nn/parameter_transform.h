// What an equivalent transformation that is being learned makes of the parameters of a layer.
#pragma once

#include <string>
#include <utility>
#include <vector>

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

  /// The name of what is learned, and of the setting of its rate: "let" reads rate_let.
  virtual std::string kind() const = 0;
  /// What is learned, by name ("input_layernorm.scale"); empty once folded.
  virtual const std::vector<std::pair<std::string, Var>>& variables() const = 0;
  /// The end: parameters become what the layers computed with, bit for bit, and nothing of the
  /// transformation is left in the block's forward pass.
  virtual void fold() = 0;
  virtual bool folded() const = 0;
  /// Values of the variables (copies), and after fold() a mark that they are folded. Restoring
  /// what bears the mark folds them here, too.
  virtual std::vector<std::pair<std::string, Tensor>> snapshot() const = 0;
  virtual void restore(const std::vector<std::pair<std::string, Tensor>>& values) = 0;
};

}  // namespace cbq
