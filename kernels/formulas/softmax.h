// Softmax and the losses made of it, for the ops of kernels/softmax.cu and loss.cu. Attention by
// rows takes the power from here; attention.cu and fused_attention.cu compute probabilities tile by
// tile, with sums of their own.
//
// `Math` is PortableMath or NativeMath (device_math.h).
#pragma once

#include "kernels/formulas/device_math.h"

namespace cbq::formulas {

/// y_j = e_j / sum e,  e_j = e^(x_j - max x), so that no power overflows.
/// dL/dx_j = y_j (g_j - sum_i g_i y_i),  g = dL/dy.
template <class Math>
struct Softmax {
  /// max_j x_j of the row x; a NaN is passed over, and comes back through the powers.
  template <class Row, class X>
  CBQ_HD static auto largest(const Row& row, const X& x) {
    return row.max([](auto x_j) { return x_j; }, x);
  }
  template <class A>
  CBQ_HD static A power(A x, A largest) {
    return Math::exp(x - largest);
  }
  template <class A>
  CBQ_HD static A value(A power, A inverse_sum) {
    return power * inverse_sum;
  }
  template <class A>
  CBQ_HD static A gradient(A y, A g, A sum_of_gy) {
    return y * (g - sum_of_gy);
  }
};

/// nll = -log y_t = log(sum e) + max x - x_t, with y and e of Softmax and t the target.
/// dL/dx_j = g (y_j - [j = t]),  g = dL/d nll.
struct CrossEntropy {
  /// In f64: the sum of a large vocabulary's powers needs it.
  CBQ_HD static double value(double sum_of_powers, double largest, double x_of_target) {
    return math::log(sum_of_powers) + largest - x_of_target;
  }
  template <class A>
  CBQ_HD static A gradient(A y, bool is_target, A g) {
    return g * (y - (is_target ? A(1) : A(0)));
  }
};

}  // namespace cbq::formulas
