// Scalar math that is the same function on both devices.
//
// libm and CUDA's math library differ in the last bits, and a call into libm keeps a compiler from
// vectorizing a loop. These are plain arithmetic: g++ vectorizes a loop around them, and the CPU
// and the GPU compute the same value (up to fused multiply-add).
#pragma once

#include <cmath>
#include <cstdint>

#include "tensor/dtype.h"

namespace cbq::math {

/// e^x for f32: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by a degree-6 polynomial, 2^n through the
/// exponent bits. Error <= 1 ulp on [-87.33, 88.722]; 0 below, +inf above; NaN stays NaN.
CBQ_HD inline float exp(float x) {
  constexpr float log2e = 1.44269504088896341f;
  constexpr float ln2_high = 0.693359375f;
  constexpr float ln2_low = -2.12194440e-4f;
  constexpr float largest = 88.722839f;  // ln of the largest f32
  // Clamping keeps n inside the exponent range; the order of the comparisons lets NaN through.
  const float limited = x > largest ? largest : (x < -87.33f ? -87.33f : x);
  // Adding 1.5 * 2^23 pushes the fraction out of the mantissa: round to nearest without a call.
  constexpr float magic = 12582912.0f;
  const float shifted = limited * log2e + magic;
  const float n = shifted - magic;
  const float r = (limited - n * ln2_high) - n * ln2_low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // n = 128 occurs just below the overflow, where 2^n has no exponent pattern, and at n = -126 half
  // of it has none: 2^n in two factors, 2^(n/2) and the rest.
  const auto power = static_cast<int32_t>(detail::bits_of(shifted) - 0x4b400000u);
  const int32_t half = power >> 1;
  const float first = detail::float_of(static_cast<uint32_t>(half + 127) << 23);
  const float second = detail::float_of(static_cast<uint32_t>(power - half + 127) << 23);
  const float y = p * first * second;
  return x > largest ? INFINITY : (x < -87.33f ? 0.0f : y);
}
CBQ_HD inline double exp(double x) { return ::exp(x); }

/// Natural logarithm of a positive, normal, finite f32, as plain arithmetic: x = 2^n m with m in
/// [0.7, 1.4], log m = 2 atanh(t), t = (m - 1) / (m + 1), by its odd series up to t^9 (|t| <=
/// 0.18). Relative error <= 3e-7 away from 1, absolute error <= 1e-7 near it.
CBQ_HD inline float log_positive(float x) {
  constexpr uint32_t root_half = 0x3f3504f3u;  // sqrt(1/2): mantissas from here to twice this
  const uint32_t shifted = detail::bits_of(x) - root_half;
  const auto n = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float m = detail::float_of((shifted & 0x007fffffu) + root_half);
  const float t = (m - 1.0f) / (m + 1.0f);
  const float t2 = t * t;
  const float series = 1.0f + t2 * (1.0f / 3 + t2 * (1.0f / 5 + t2 * (1.0f / 7 + t2 / 9)));
  return n * 0.693147180559945f + 2.0f * t * series;
}
CBQ_HD inline double log_positive(double x) { return ::log(x); }

CBQ_HD inline float log(float x) { return ::logf(x); }
CBQ_HD inline double log(double x) { return ::log(x); }
CBQ_HD inline float sqrt(float x) { return ::sqrtf(x); }
CBQ_HD inline double sqrt(double x) { return ::sqrt(x); }

/// tanh x for f32, as plain arithmetic. |x| < 0.7: Lambert's continued fraction
/// x / (1 + x^2 / (3 + x^2 / (5 + ...))) up to 13. Beyond: 1 - 2 / (1 + e^2x), where nothing
/// cancels. Relative error <= 3e-7; NaN stays NaN.
CBQ_HD inline float tanh(float x) {
  const float t = x * x;
  const float above = x * (135135.0f + t * (17325.0f + t * (378.0f + t)));
  const float below = 135135.0f + t * (62370.0f + t * (3150.0f + t * 28.0f));
  const float size = x < 0.0f ? -x : x;
  const float outer = 1.0f - 2.0f / (1.0f + exp(2.0f * size));
  return size < 0.7f ? above / below : (x < 0.0f ? -outer : outer);
}
CBQ_HD inline double tanh(double x) { return ::tanh(x); }

template <class A>
CBQ_HD A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

/// x rounded to the nearest integer, ties to even (the hardware's rounding mode).
CBQ_HD inline float round_even(float x) { return ::rintf(x); }
CBQ_HD inline double round_even(double x) { return ::rint(x); }
CBQ_HD inline float floor(float x) { return ::floorf(x); }
CBQ_HD inline double floor(double x) { return ::floor(x); }

// NaN in, NaN out, so that bad data is seen and not clamped away.
template <class A>
CBQ_HD A clamp(A x, A low, A high) {
  return x < low ? low : (x > high ? high : x);
}
template <class A>
CBQ_HD A max(A a, A b) {
  return (a > b) | (a != a) ? a : b;  // "|": no branch
}
template <class A>
CBQ_HD A min(A a, A b) {
  return (a < b) | (a != a) ? a : b;
}
template <class A>
CBQ_HD A abs(A x) {
  return x < A(0) ? -x : x;
}

}  // namespace cbq::math
