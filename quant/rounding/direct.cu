// Direct training of the weight through the straight-through quantizer (as in EfficientQAT's
// block-wise phase, Chen et al. 2024): r = round((w + p) / s), p in the units of the weight and
// without bounds.
#include "quant/rounding_kernels.h"

namespace cbq {
namespace {

struct Direct : ScalarRounding {
  static constexpr const char* name = "direct";
  static constexpr const char* help =
      "round((w + p)/s): the weight itself is trained, straight-through";
  static constexpr bool v_in_weight_units = true;

  template <class A>
  CBQ_HD static A hard(A u, A v) {
    return math::round_even(u + v);
  }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<Direct>();

}  // namespace
}  // namespace cbq
