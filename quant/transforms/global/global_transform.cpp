#include "quant/transforms/global/global_transform.h"

namespace cbq {

void GlobalTransform::configure(const std::string& variant, uint64_t) {
  check(variant.empty(), "transform '", name(), "' has no variants, got ':", variant, "'");
}

Registry<GlobalTransform>& global_transforms() {
  static Registry<GlobalTransform> registry("transform");
  return registry;
}

}  // namespace cbq
