// Round to nearest: the baseline of every table. Nothing is learned but the scale.
#include "quant/rounding_kernels.h"

namespace cbq {
namespace {

struct Nearest : ScalarRounding {
  static constexpr const char* name = "nearest";
  static constexpr const char* help = "round to nearest, ties to even; learns no rounding";
  static constexpr Parameterization parameterization = Parameterization::none;

  template <class A>
  CBQ_HD static A hard(A u, A) {
    return math::round_even(u);
  }
  template <class A>
  CBQ_HD static A d_dv(A, A) {
    return A(0);
  }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<Nearest>();

}  // namespace
}  // namespace cbq
