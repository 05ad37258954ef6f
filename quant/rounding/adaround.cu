// AdaRound (Nagel et al. 2020): a dense matrix of rounding variables through a rectified sigmoid.
#include "quant/rectified_sigmoid.h"

namespace cbq {
namespace {

struct AdaRound : RectifiedSigmoid {
  static constexpr const char* name = "adaround";
  static constexpr const char* help =
      "floor(w/s) + rectified sigmoid of a dense variable (Nagel et al. 2020)";
  static constexpr double default_rate(int /*abits*/) { return 0.05; }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<AdaRound>();

}  // namespace
}  // namespace cbq
