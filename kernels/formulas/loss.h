// The reconstruction error between a row p and its fixed target t, and its derivative, for
// kernels/loss.cu. d = p - t.
#pragma once

#include "kernels/formulas/math.h"

namespace cbq::formulas {

/// A term of the error, and the factor of d_j in its derivative by p_j.
template <class A>
struct ErrorTerm {
  A value, factor;
};

/// The forms of L2, each for a weight and sum_j d_j^2:
///   sum       weight sum_j d_j^2,                     d/dp_j = 2 weight d_j
///   norm      weight ||d||,                           d/dp_j = weight d_j / ||d||, 0 at d = 0
///   relative  weight n sum_j d_j^2 / sum_j t_j^2,     as sum; 0 where t = 0
struct SquaredError {
  template <class A>
  CBQ_HD static A square(A p, A t) {
    return (p - t) * (p - t);
  }
  template <class A>
  CBQ_HD static ErrorTerm<A> sum(A weight, A squares) {
    return {weight * squares, weight * A(2)};
  }
  template <class A>
  CBQ_HD static ErrorTerm<A> norm(A weight, A squares) {
    const A root = math::sqrt(squares);
    return {weight * root, weight * (root > A(0) ? A(1) / root : A(0))};
  }
  /// The weight with which the form `sum` is the form `relative`.
  template <class A>
  CBQ_HD static A relative_weight(A weight, A squares_of_target, int64_t n) {
    return weight * (squares_of_target > A(0) ? A(n) / squares_of_target : A(0));
  }
};

/// KL(y || q) = sum_j y_j (t_j - z_t - p_j + z_p),  q = softmax(p), y = softmax(t),
/// z = log sum_j e^(.);  d/dp_j = q_j - y_j.
struct Divergence {
  /// `shift` = z_p - z_t.
  template <class A>
  CBQ_HD static A term(A y, A t, A p, A shift) {
    return y * (t - p + shift);
  }
  template <class A>
  CBQ_HD static A gradient(A q, A y) {
    return q - y;
  }
};

}  // namespace cbq::formulas
