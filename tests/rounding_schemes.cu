// Rounding schemes that exist for the tests alone. Their registration sends them through the
// contract (rounding_contract.h): a relaxed weight whose variable is an offset of the weight
// itself, which no scheme of quant/rounding/ has, with and without bounds.
#include "quant/rectified_sigmoid.h"

namespace cbq {
namespace {

struct OffsetSigmoid : RectifiedSigmoid {
  static constexpr const char* name = "test_offset_sigmoid";
  static constexpr const char* help = "adaround whose variable is an offset of the weight";
  static constexpr bool v_in_weight_units = true;
};

struct OffsetLinear : ScalarRounding {
  static constexpr const char* name = "test_offset_linear";
  static constexpr const char* help = "floor(w/s) + v, v in [0, 1], an offset of the weight";
  static constexpr bool relaxes = true, straight_through_v = false, v_in_weight_units = true;
  static constexpr double v_min = 0.0, v_max = 1.0;
  static constexpr Start start = Start::fraction;

  template <class A>
  CBQ_HD static A initial(A u, Start from) {
    if (from == Start::zero) return A(0);
    return (from == Start::fraction ? u : math::round_even(u)) - math::floor(u);
  }
  template <class A>
  CBQ_HD static A soft(A u, A v) {
    return math::floor(u) + v;
  }
  template <class A>
  CBQ_HD static A hard(A u, A v) {
    return math::floor(u) + (v >= A(0.5) ? A(1) : A(0));
  }
  template <class A>
  CBQ_HD static A relaxed(A v) {
    return v;
  }
  template <class A>
  CBQ_HD static A d_relaxed(A) {
    return A(1);
  }
};

[[maybe_unused]] const bool registered =
    register_rounding_scheme<OffsetSigmoid>() && register_rounding_scheme<OffsetLinear>();

}  // namespace
}  // namespace cbq
