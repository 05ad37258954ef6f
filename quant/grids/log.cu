// The logarithm of the scale is learned: every step changes a scale by a factor.
#include "quant/scale_grid.h"

namespace cbq {
namespace {

struct LogScale {
  static constexpr const char* name = "log";
  static constexpr const char* help = "s = s0 e^x, x learned";
  template <class A>
  CBQ_HD static A scale(A s0, A x) {
    return s0 * math::exp(x);
  }
  template <class A>
  CBQ_HD static A slope(A /*s0*/, A s) {
    return s;
  }
};

[[maybe_unused]] const bool registered = register_scale_grid<LogScale>();

}  // namespace
}  // namespace cbq
