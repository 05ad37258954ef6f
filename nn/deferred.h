// What a linear layer reads, before it is computed.
#pragma once

#include <variant>

#include "autograd/var.h"

namespace cbq {

/// y = f(x, ...), to be computed by whoever reads it: a quantizer can take the function into its
/// own pass over memory (FusedInput in nn/linear.h), everybody else calls value(). f is a function
/// of autograd/functions.h, and what it takes says which forms there are:
///
///   Deferred(&ag::swiglu, gate, up), Deferred(&ag::layer_norm, x, weight, bias, eps)
///
/// Who knows f by its address (quant/quantize_tokens.cu) can do better than to call it; nobody has
/// to know it.
class Deferred {
 public:
  using OfOne = Var (*)(const Var&);
  using OfTwo = Var (*)(const Var&, const Var&);
  using Norm = Var (*)(const Var&, const Var& weight, double eps);
  using AffineNorm = Var (*)(const Var&, const Var& weight, const Var& bias, double eps);
  using Function = std::variant<std::monostate, OfOne, OfTwo, Norm, AffineNorm>;

  /// y = x: nothing is left to be done.
  explicit Deferred(const Var& x_) : x(x_) {}
  Deferred(OfOne f, const Var& x_) : function(f), x(x_) {}
  Deferred(OfTwo f, const Var& x_, const Var& second_) : function(f), x(x_), second(second_) {}
  Deferred(Norm f, const Var& x_, const Var& weight, double eps_)
      : function(f), x(x_), second(weight), eps(eps_) {}
  /// weight and bias may both be undefined.
  Deferred(AffineNorm f, const Var& x_, const Var& weight, const Var& bias, double eps_)
      : function(f), x(x_), second(weight), third(bias), eps(eps_) {}

  /// y, computed anew by every call.
  Var value() const;
  /// y computed now, as a Deferred with the identity: for a y that others read, too.
  Deferred computed() const { return Deferred(value()); }

  Function function;
  Var x;
  Var second;  // the function's second argument: a tensor like x, or a weight [n]
  Var third;   // its third: a bias [n]
  double eps = 0.0;
};

}  // namespace cbq
