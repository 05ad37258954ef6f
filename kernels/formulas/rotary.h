// Rotary position embedding of one pair of elements (Su et al. 2021), for kernels/rope.cu.
#pragma once

#include "kernels/formulas/device_math.h"

namespace cbq::formulas {

/// (a, b) -> (a c - b s, b c + a s),  c, s the cosine and sine of the pair's angle, rounded to T,
/// as transformers does. It turns by the angle for direction = +1, back for -1; turning the
/// gradient back is the derivative.
template <class T>
struct Rotary {
  using A = acc_t<T>;
  struct Pair {
    A a, b;
  };
  CBQ_HD static Pair turned(A a, A b, float cosine, float sine, A direction) {
    const A c = device_math::rounded<T>(A(cosine));
    const A s = direction * device_math::rounded<T>(A(sine));
    return {a * c - b * s, b * c + a * s};
  }
};

}  // namespace cbq::formulas
