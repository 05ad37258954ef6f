// LoRA-Rounding (CBQ, section 3.3): AdaRound's math with V = V0(w/s) + A1 A2, which learns r (out +
// in) variables of a weight instead of out * in.
#include "quant/rectified_sigmoid.h"

namespace cbq {
namespace {

struct LoraRounding : RectifiedSigmoid {
  static constexpr const char* name = "lora_rounding";
  static constexpr const char* help =
      "AdaRound with the variables as a low-rank product A1 A2 (CBQ's LoRA-Rounding)";
  static constexpr Parameterization parameterization = Parameterization::low_rank;
  static constexpr double default_rate(int /*abits*/) { return 0.1; }
};

[[maybe_unused]] const bool registered = register_rounding_scheme<LoraRounding>();

}  // namespace
}  // namespace cbq
