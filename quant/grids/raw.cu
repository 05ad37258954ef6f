// The scale itself is learned, as LSQ does (Esser et al. 2020). Where a scale has reached its lower
// bound, the gradient passes as if there were none, so that the scale can come back.
#include "quant/scale_grid.h"

namespace cbq {
namespace {

struct RawScale {
  static constexpr const char* name = "raw";
  static constexpr const char* help = "s = s0 + x, at least s0 / 1024, x learned (LSQ)";
  template <class A>
  CBQ_HD static A scale(A s0, A x) {
    return detail::kept_positive(s0 + x, s0);
  }
  template <class A>
  CBQ_HD static A slope(A /*s0*/, A /*s*/) {
    return A(1);
  }
};

[[maybe_unused]] const bool registered = register_scale_grid<RawScale>();

}  // namespace
}  // namespace cbq
