// SignRound (Cheng et al. 2023, AutoRound): an offset before rounding to nearest, learned straight
// through. At most half a step, so every weight keeps to its two neighbours on the grid.
#include "quant/rounding_kernels.h"

namespace cbq {
namespace {

struct SignRound : ScalarRounding {
  static constexpr const char* name = "signround";
  static constexpr const char* help =
      "round(w/s + v), |v| <= 1/2, straight-through (SignRound, Cheng et al. 2023)";
  static constexpr double v_min = -0.5, v_max = 0.5;
  static constexpr double default_rate(int abits) { return abits <= 4 ? 0.02 : 0.01; }

  template <class A>
  CBQ_HD static A hard(A u, A v) {
    return math::round_even(u + v);
  }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<SignRound>();

}  // namespace
}  // namespace cbq
