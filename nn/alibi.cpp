#include "nn/alibi.h"

#include <bit>
#include <cmath>
#include <vector>

#include "tensor/runtime/shapes_only.h"

namespace cbq {

Tensor alibi_slopes(int64_t heads, Device device) {
  check(heads > 0, "alibi_slopes: ", heads, " heads");
  if (ShapesOnly::active()) return Tensor({heads}, Dtype::f32, device);
  const auto m = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<float> slopes;
  for (int64_t k = 0; k < heads; ++k) {
    const double steps =
        k < m ? 2.0 * static_cast<double>(k + 1) : static_cast<double>(2 * (k - m) + 1);
    slopes.push_back(static_cast<float>(std::exp2(-4.0 * steps / static_cast<double>(m))));
  }
  return Tensor::from(slopes, {heads}, Dtype::f32, device);
}

}  // namespace cbq
