// Linear: y = x W^T + b, and the hook through which a quantizer enters it.
#pragma once

#include <memory>
#include <string>

#include "nn/module.h"

namespace cbq {

/// What a quantizer plugs into a Linear (implemented in quant/; nn/ knows only this).
/// Both functions are differentiable; an identity transform returns its argument.
class LinearTransform {
 public:
  virtual ~LinearTransform() = default;
  /// W [out, in] -> the weight to multiply with.
  virtual Var weight(const Var& w) = 0;
  /// x [tokens, in] -> the input to multiply with.
  virtual Var input(const Var& x) = 0;
};

class Linear : public Module {
 public:
  Linear() = default;
  /// Parameters are allocated, not initialized.
  Linear(int64_t in, int64_t out, bool bias, Dtype dtype, Device device);

  /// x [tokens, in] -> [tokens, out].
  Var forward(const Var& x) const;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;

  int64_t in_features() const { return weight.size(1); }
  int64_t out_features() const { return weight.size(0); }

  Var weight;                                  // [out, in]
  Var bias;                                    // [out], or undefined
  std::shared_ptr<LinearTransform> transform;  // none: plain floating point
};

}  // namespace cbq
