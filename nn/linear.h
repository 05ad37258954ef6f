// Linear: y = x W^T + b, and the hook through which a quantizer enters it.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>

#include "nn/deferred.h"
#include "nn/module.h"
#include "nn/parameter_transform.h"
#include "nn/stored_transform.h"

namespace cbq {

class QuantizedTransform;  // quant/quantized_linear.h

/// Transforms the input of several layers that read one activation, in one pass with the function
/// that makes this activation (implemented in quant/).
class FusedInput {
 public:
  virtual ~FusedInput() = default;
  /// For every reader what LinearTransform::input makes of y.value(), with the same values and
  /// gradients. This object is the first reader. Empty: there is no such pass for these readers.
  virtual std::vector<Var> inputs(const Deferred& y,
                                  const std::vector<const FusedInput*>& readers) const = 0;
};

/// What a quantizer does to a Linear (implemented in quant/; nn/ knows only this interface).
/// Both functions are differentiable; an identity transform returns its argument.
class LinearTransform {
 public:
  virtual ~LinearTransform() = default;
  /// W [out, in] -> the weight to multiply with.
  virtual Var weight(const Var& w) = 0;
  /// x [tokens, in] -> the input to multiply with.
  virtual Var input(const Var& x) = 0;
  /// If not null, its inputs() may be called in place of input().
  virtual const FusedInput* fused_input() const { return nullptr; }
  /// The quantizers that this transform consists of; null: it is something else.
  virtual QuantizedTransform* quantizers() { return nullptr; }
};

class Linear : public Module {
 public:
  Linear() = default;
  /// Parameters are allocated, not initialized.
  Linear(int64_t in, int64_t out, bool bias, Dtype dtype, Device device);

  /// x [tokens, in] -> [tokens, out].
  Var forward(const Var& x) const;
  Var forward(const Deferred& x) const;
  /// The same for an input to which `online` and `transform` have been applied already.
  Var multiply(const Var& input) const;
  /// The weight as `equivalent` makes it, before any quantizer.
  Var current_weight() const { return equivalent ? equivalent->weight(weight) : weight; }
  Var current_bias() const { return equivalent ? equivalent->bias(bias, weight) : bias; }
  /// Those of `transform`, or null.
  QuantizedTransform* quantizers() const { return transform ? transform->quantizers() : nullptr; }
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;

  int64_t in_features() const { return weight.size(1); }
  int64_t out_features() const { return weight.size(0); }

  Var weight;                                  // [out, in]
  Var bias;                                    // [out], or undefined
  std::shared_ptr<LinearTransform> transform;  // none: plain floating point
  /// What the input passes first, as a part of the model; none: nothing.
  std::shared_ptr<const StoredTransform> online;
  /// What the parameters are while an equivalent transformation is learned; none: themselves.
  std::shared_ptr<const ParameterTransform> equivalent;
  /// The expert that this layer belongs to (nn/experts.h): it reads only the rows that the router
  /// sends there, and is not called for none. -1: no expert's, it reads every row.
  int64_t expert = -1;
};

namespace detail {
void forward_each(std::span<const Linear* const> linears, const Deferred& x, std::span<Var> y);
}

/// linear.forward(x) for all linears that read x, in one call, so that their transforms may share
/// the work: const auto [q, k, v] = forward_each({&q_, &k_, &v_}, norm_.deferred(x)).
/// x's gradient is the sum of what they return, added in their order.
template <size_t n>
std::array<Var, n> forward_each(const Linear* const (&linears)[n], const Deferred& x) {
  std::array<Var, n> y;
  detail::forward_each(linears, x, y);
  return y;
}

}  // namespace cbq
