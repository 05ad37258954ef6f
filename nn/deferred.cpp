#include "nn/deferred.h"

#include "autograd/functions.h"

namespace cbq {

Deferred Deferred::rms_norm(const Var& x, const Var& weight, double eps) {
  Deferred y(Function::rms_norm, x);
  y.weight = weight;
  y.eps = eps;
  return y;
}

Deferred Deferred::layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) {
  Deferred y(Function::layer_norm, x);
  y.weight = weight;
  y.bias = bias;
  y.eps = eps;
  return y;
}

Deferred Deferred::swiglu(const Var& gate, const Var& up) {
  Deferred y(Function::swiglu, gate);
  y.up = up;
  return y;
}

Deferred Deferred::relu(const Var& x) { return {Function::relu, x}; }
Deferred Deferred::gelu(const Var& x) { return {Function::gelu, x}; }

Var Deferred::value() const {
  switch (function) {
    case Function::rms_norm:
      return ag::rms_norm(x, weight, eps);
    case Function::layer_norm:
      return ag::layer_norm(x, weight, bias, eps);
    case Function::swiglu:
      return ag::swiglu(x, up);
    case Function::relu:
      return ag::relu(x);
    case Function::gelu:
      return ag::gelu(x);
    case Function::identity:
      break;
  }
  return x;
}

}  // namespace cbq
