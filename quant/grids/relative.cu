// The scale's factor is learned. Where a scale has reached its lower bound, the gradient passes as
// if there were none, so that the scale can come back.
#include "quant/scale_grid.h"

namespace cbq {
namespace {

struct RelativeScale {
  static constexpr const char* name = "relative";
  static constexpr const char* help = "s = s0 (1 + x), at least s0 / 1024, x learned";
  template <class A>
  CBQ_HD static A scale(A s0, A x) {
    return detail::kept_positive(s0 * (A(1) + x), s0);
  }
  template <class A>
  CBQ_HD static A slope(A s0, A /*s*/) {
    return s0;
  }
};

[[maybe_unused]] const bool registered = register_scale_grid<RelativeScale>();

}  // namespace
}  // namespace cbq
