// The rule of a uniform grid: from the ends of a range to scale and zero point.
#pragma once

#include <limits>

#include "kernels/formulas/math.h"
#include "kernels/formulas/multi_reduce.h"
#include "quant/config.h"
#include "quant/grid.h"

namespace cbq {

template <class A>
struct GridPoint {
  A scale, zero_point;
};

/// The grid of one token of activations; u = x / scale.
template <class A>
struct TokenGrid {
  A scale, zero_point, largest_code;
  /// x^ = scale (clamp(round(u) + z, 0, largest) - z).
  CBQ_HD A value(A u) const {
    return scale * (math::clamp(math::round_even(u) + zero_point, A(0), largest_code) - zero_point);
  }
  /// For g = dL/dx^: dL/dx = g inside the range and 0 outside; the term is g dx^/d scale.
  CBQ_HD Stored<A, 1> gradient(A u, A g) const {
    const A q = math::round_even(u) + zero_point;
    const A code = math::clamp(q, A(0), largest_code);
    const bool inside = q == code;  // one comparison; of a NaN it is false
    return {{inside ? g : A(0)}, g * (code - zero_point - (inside ? u : A(0)))};
  }
};

///   asymmetric: s = (high - low) / (2^b - 1), z = clamp(round(-low / s), 0, 2^b - 1);
///   symmetric:  s by SymmetricForm from max(-low, high), z = 2^(b-1).
/// low <= 0 <= high.
template <class A>
struct GridRule {
  bool symmetric, restricted;
  A largest_code, middle_code;

  GridRule(int bits, bool is_symmetric, SymmetricForm form)
      : symmetric(is_symmetric),
        restricted(form == SymmetricForm::restricted),
        largest_code(A(max_code(bits))),
        middle_code(A(1 << (bits - 1))) {}

  /// The scale of the range, 0 for a range of zeros.
  CBQ_HD A range_scale(A low, A high) const {
    const A reach = math::max(-low, high);
    if (!symmetric) return (high - low) / largest_code;
    return restricted ? reach / (middle_code - A(1)) : A(2) * reach / largest_code;
  }
  /// ds / d max(-low, high) of a symmetric grid.
  CBQ_HD A scale_per_reach() const {
    return restricted ? A(1) / (middle_code - A(1)) : A(2) / largest_code;
  }

  CBQ_HD GridPoint<A> from_range(A low, A high) const {
    A s = range_scale(low, high);
    // Only zeros, or values so small that w/s would lose its precision: any scale maps them to
    // zero.
    constexpr A smallest = std::numeric_limits<A>::min();
    if (s < smallest) s = A(1);
    if (symmetric) return {s, middle_code};
    return {s, math::clamp(math::round_even(-low / s), A(0), largest_code)};
  }
  /// The range of a token, scaled by e^clip. Both ends scale alike, so z = round(-low / s) stays.
  CBQ_HD TokenGrid<A> token_grid(A low, A high, A clip) const {
    const GridPoint<A> point = from_range(low, high);
    return {point.scale * math::exp(clip), point.zero_point, largest_code};
  }
};

}  // namespace cbq
