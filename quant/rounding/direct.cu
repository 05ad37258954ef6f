// Direct training of the weight through the straight-through quantizer (as in EfficientQAT's
// block-wise phase, Chen et al. 2024): r = round((w + s0 p) / s), without bounds. p is in units of
// s0, the scale at the start, so that one rate fits rows and layers of any size.
#include "quant/rounding_kernels.h"

namespace cbq {
namespace {

struct Direct : ScalarRounding {
  static constexpr const char* name = "direct";
  static constexpr const char* help =
      "round((w + s0 p)/s): the weight itself is trained, straight-through";
  static constexpr bool v_in_weight_units = true;
  static constexpr double default_rate(int /*abits*/) { return 0.02; }

  template <class A>
  CBQ_HD static A hard(A u, A v) {
    return math::round_even(u + v);
  }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<Direct>();

}  // namespace
}  // namespace cbq
