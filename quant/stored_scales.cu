// Scales of weights as a type of fewer digits holds them.
#include "kernels/launch/launch.h"
#include "quant/scale_grid.h"

namespace cbq {
namespace {

/// Numbers m 2^k with m < 2^digits and k >= least_exponent, up to `largest`.
struct ScaleNumbers {
  int digits, least_exponent;
  float largest;
};

ScaleNumbers numbers_of(ScaleType type) {
  switch (type) {
    case ScaleType::f16:
      return {11, -24, 65504.0f};
    case ScaleType::e5m6:
      return {7, -20, 65024.0f};
    default:
      // bf16 reaches down to 2^-133. The numbers here stop at the smallest that is no subnormal
      // number of f32, in which they are computed.
      return {8, -126, 0x1.fep+127f};
  }
}

CBQ_HD float power_of_two(int exponent) {
  return detail::float_of(static_cast<uint32_t>(exponent + 127) << 23);
}

template <class T>
struct StoredScale {
  const T* scale;
  T* stored;
  ScaleNumbers numbers;
  CBQ_HD void operator()(int64_t i) const {
    const int exponent =
        static_cast<int>(detail::bits_of(static_cast<float>(scale[i])) >> 23) - 127;
    const int last_digit = exponent - numbers.digits + 1;
    const int least = numbers.least_exponent;
    const T unit = T(power_of_two(last_digit < least ? least : last_digit));
    const T rounded = math::round_even(scale[i] / unit) * unit;
    const T low = T(power_of_two(least)), high = T(numbers.largest);
    stored[i] = rounded < low ? low : rounded > high ? high : rounded;  // NaN stays NaN
  }
};

}  // namespace

Tensor stored_scales(const Tensor& scale, ScaleType type) {
  if (type == ScaleType::f32) return scale;
  Tensor stored(scale.shape(), scale.dtype(), scale.device());
  detail::dispatch_scale("stored_scales", scale.dtype(), [&]<class T>() {
    map("stored_scales", scale.device(), scale.count(),
        StoredScale<T>{scale.data<T>(), stored.data<T>(), numbers_of(type)});
  });
  return stored;
}

}  // namespace cbq
