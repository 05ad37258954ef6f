// Activation functions with their derivatives. Each formula stands here once: the ops of
// kernels/activation.cu and the fused quantizers of tokens (quant/token_prologues.h) call it.
//
// `Math` is PortableMath or NativeMath (device_math.h); on the CPU both are the same functions.
// A is float or double; g is dL/dy.
#pragma once

#include <cmath>

#include "kernels/formulas/device_math.h"

namespace cbq::formulas {

/// y = max(x, 0); NaN stays NaN.
/// dL/dx = g where x > 0, else 0.
struct Relu {
  template <class A>
  CBQ_HD static A value(A x) {
    return x < A(0) ? A(0) : x;
  }
  /// Takes y in the place of x as well: both are positive at the same elements.
  template <class A>
  CBQ_HD static A gradient(A x, A g) {
    return x > A(0) ? g : A(0);
  }
};

/// y = x (1 + tanh(z / 2)) / 2 = x sigmoid(z),  z = 2 sqrt(2 / pi) (x + 0.044715 x^3): the tanh
/// form of GELU (Hendrycks & Gimpel 2016). The sigmoid takes one exponential, and nothing cancels
/// where tanh is near -1.
/// dL/dx = g (s + x s (1 - s) dz/dx),  s = sigmoid(z).
template <class Math>
struct Gelu {
  static constexpr double slope = 0.79788456080286535588;  // sqrt(2 / pi)
  static constexpr double cubic = 0.044715;
  template <class A>
  CBQ_HD static A argument(A x) {
    return A(2 * slope) * x * (A(1) + A(cubic) * x * x);
  }
  template <class A>
  CBQ_HD static A value(A x) {
    return x * Math::sigmoid(argument(x));
  }
  template <class A>
  CBQ_HD static A gradient(A x, A g) {
    const A dz = A(2 * slope) * (A(1) + A(3 * cubic) * x * x);
    const A s = Math::sigmoid(argument(x));
    return g * (s + x * s * (A(1) - s) * dz);
  }
};

/// y = x F(x), F the normal distribution: GELU itself (Hendrycks & Gimpel 2016).
/// F(x) = erfc(-x / sqrt(2)) / 2, where nothing cancels for negative x.
/// dL/dx = g (F(x) + x f(x)),  f(x) = e^(-x^2 / 2) / sqrt(2 pi).
struct ExactGelu {
  template <class A>
  CBQ_HD static A share(A x) {
    using std::erfc;
    return A(0.5) * erfc(A(-0.70710678118654752440) * x);
  }
  template <class A>
  CBQ_HD static A value(A x) {
    return x * share(x);
  }
  template <class A>
  CBQ_HD static A gradient(A x, A g) {
    using std::exp;
    const A density = A(0.39894228040143267794) * exp(A(-0.5) * x * x);
    return g * (share(x) + x * density);
  }
};

/// y = c tanh(x / c), c > 0: a number that stays between -c and c (Gemma Team 2024).
/// dL/dx = g (1 - (y / c)^2).
struct SoftCap {
  double cap;
  template <class A>
  CBQ_HD A value(A x) const {
    return A(cap) * math::tanh(x / A(cap));
  }
  /// Takes y in the place of x.
  template <class A>
  CBQ_HD A gradient(A y, A g) const {
    const A t = y / A(cap);
    return g * ((A(1) - t) * (A(1) + t));
  }
};

/// SoftCap's place where there is none: y = x.
struct NoCap {
  template <class A>
  CBQ_HD A value(A x) const {
    return x;
  }
  template <class A>
  CBQ_HD A gradient(A /*y*/, A g) const {
    return g;
  }
};

/// The gradients of a function of two elements, a and b.
template <class A>
struct PairGradient {
  A a, b;
};

/// y = gate sigmoid(gate) up (Shazeer 2020).
/// dL/d gate = g up s (1 + gate (1 - s)),  dL/d up = g gate s,  s = sigmoid(gate).
template <class Math>
struct SwiGlu {
  template <class A>
  CBQ_HD static A value(A gate, A up) {
    return gate * Math::sigmoid(gate) * up;
  }
  template <class A>
  CBQ_HD static PairGradient<A> gradient(A gate, A up, A g) {
    const A s = Math::sigmoid(gate);
    return {g * up * s * (A(1) + gate * (A(1) - s)), g * gate * s};
  }
};

}  // namespace cbq::formulas
