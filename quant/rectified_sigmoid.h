// The rectified sigmoid of AdaRound (Nagel et al. 2020, "Up or Down?", eq. 23; Louizos et al.
// 2018). It stands here and not in kernels/formulas/, because rounding alone uses it.
#pragma once

#include "quant/rounding_kernels.h"

namespace cbq {

/// r = floor(u) + h(v), h(v) = clamp(sigmoid(v) (zeta - gamma) + gamma, 0, 1), zeta 1.1, gamma
/// -0.1. Hard: h is 1 where h(v) >= 0.5, which is v >= 0. Backward: h'(v), and floor(u) is
/// straight-through in u (dr/du = 1), which is also the true derivative of r where v = v0(u), since
/// there r = u.
struct RectifiedSigmoid : ScalarRounding {
  static constexpr bool relaxes = true;
  static constexpr bool straight_through_v = false;
  static constexpr Start start = Start::fraction;
  static constexpr double zeta = 1.1, gamma = -0.1;
  /// h(-edge) = 0 and h(edge) = 1 exactly: log(11) and a little, so that rounding errors in h stay
  /// on the flat side. At the edge itself the derivative is still that of the slope (0.09).
  static constexpr double edge = 2.398;

  /// fraction: h(v0) = u - floor(u). nearest: at the edge, so that h is 0 or 1 and can still move.
  template <class A>
  CBQ_HD static A initial(A u, Start from) {
    const A f = u - math::floor(u);
    if (from == Start::zero) return A(0);
    if (from == Start::nearest) return math::round_even(u) > math::floor(u) ? A(edge) : A(-edge);
    return math::log_positive((f - A(gamma)) / (A(zeta) - f));
  }
  template <class A>
  CBQ_HD static A soft(A u, A v) {
    return math::floor(u) + relaxed(v);
  }
  template <class A>
  CBQ_HD static A hard(A u, A v) {
    return math::floor(u) + (v >= A(0) ? A(1) : A(0));
  }
  template <class A>
  CBQ_HD static A d_dv(A, A v) {
    return d_relaxed(v);
  }
  template <class A>
  CBQ_HD static A relaxed(A v) {
    return math::clamp(math::sigmoid(v) * A(zeta - gamma) + A(gamma), A(0), A(1));
  }
  template <class A>
  CBQ_HD static A d_relaxed(A v) {
    const A sigmoid = math::sigmoid(v);
    return math::abs(v) <= A(edge) ? sigmoid * (A(1) - sigmoid) * A(zeta - gamma) : A(0);
  }
};

}  // namespace cbq
