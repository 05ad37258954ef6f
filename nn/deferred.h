// What a linear layer reads, before it is computed.
#pragma once

#include "autograd/var.h"

namespace cbq {

/// y = f(x) that is not computed yet; its reader computes it. A quantizer can compute f in its own
/// pass over memory (FusedInput in nn/linear.h); everybody else calls value().
class Deferred {
 public:
  enum class Function { identity, rms_norm, layer_norm, swiglu, relu, gelu };

  /// y = x: nothing is left to be done.
  explicit Deferred(const Var& x) : x(x) {}
  /// ag::rms_norm, ag::layer_norm (weight and bias may both be undefined).
  static Deferred rms_norm(const Var& x, const Var& weight, double eps);
  static Deferred layer_norm(const Var& x, const Var& weight, const Var& bias, double eps);
  /// ag::swiglu, with x = gate; ag::relu, ag::gelu.
  static Deferred swiglu(const Var& gate, const Var& up);
  static Deferred relu(const Var& x);
  static Deferred gelu(const Var& x);

  /// y, computed anew by every call.
  Var value() const;
  /// y computed now, as a Deferred with the identity: for a y that others read, too.
  Deferred computed() const { return Deferred(value()); }

  Function function = Function::identity;
  Var x;
  Var up;            // swiglu
  Var weight, bias;  // norms
  double eps = 0.0;

 private:
  Deferred(Function f, const Var& argument) : function(f), x(argument) {}
};

}  // namespace cbq
