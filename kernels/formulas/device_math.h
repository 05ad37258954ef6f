// What CUDA has instructions for and math.h or dtype.h spell out in arithmetic.
//
// Rounding gives the same bits on both devices, but for the payload of a NaN. exp and sigmoid may
// differ in the last ones, so they are for ops whose results are rounded or compared with a
// tolerance, not for quant/, where integers are decided.
#pragma once

#include <type_traits>

#include "kernels/formulas/math.h"

#ifdef __CUDACC__
#define CBQ_UNROLL _Pragma("unroll")
#else
#define CBQ_UNROLL
#endif

namespace cbq::device_math {

template <class T>
constexpr bool is_half = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

#ifdef __CUDA_ARCH__
/// Two numbers rounded to a half type, the first in the lower half. (There is a conversion of one
/// number, too, at an eighth of the speed.)
template <class T>
__device__ uint32_t rounded_pair(float first, float second) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  }
  return pair;
}
#endif

/// x rounded to T, nearest even: one instruction for a half type; in plain arithmetic bf16 takes
/// seven, f16 fifteen.
template <class T>
CBQ_HD T round_to(acc_t<T> x) {
#ifdef __CUDA_ARCH__
  if constexpr (is_half<T>) {
    T y;
    y.bits = static_cast<uint16_t>(rounded_pair<T>(x, 0.0f));
    return y;
  }
#endif
  return T(x);
}

/// Two neighbours at once, at a multiple of their size.
template <class T>
CBQ_HD void round_pair(acc_t<T> first, acc_t<T> second, T* to) {
#ifdef __CUDA_ARCH__
  if constexpr (is_half<T>) {
    const uint32_t pair = rounded_pair<T>(first, second);
    memcpy(to, &pair, sizeof pair);
    return;
  }
#endif
  to[0] = T(first);
  to[1] = T(second);
}

/// x as the number that arithmetic takes.
template <class T>
CBQ_HD acc_t<T> widen(T x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, f16>) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
  }
#endif
  return static_cast<acc_t<T>>(x);
}

/// Element j of neighbours of which the first lies at a multiple of 4 bytes.
template <class T, int n>
CBQ_HD acc_t<T> widen_at(const T (&x)[n], int j) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, bf16> && n % 2 == 0) {  // cutting the pair up would take two more
    uint32_t pair;
    memcpy(&pair, x + (j & ~1), sizeof pair);
    return detail::float_of((j & 1) != 0 ? pair & 0xffff0000u : pair << 16);
  }
#endif
  return widen(x[j]);
}

/// x rounded to T, as the number that arithmetic takes.
template <class T>
CBQ_HD acc_t<T> rounded(acc_t<T> x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, bf16>) return detail::float_of(rounded_pair<T>(0.0f, x));
#endif
  return widen(round_to<T>(x));
}

/// A value that waits in registers of 32 bits. The compiler would give each half type a register of
/// its own, and widen it at once for the sake of a later use; here it cannot look inside.
template <class V>
struct Words {
  static_assert(sizeof(V) % sizeof(uint32_t) == 0);
  static constexpr int count = sizeof(V) / sizeof(uint32_t);
  uint32_t at[count];
  CBQ_HD void set(const V& v) { memcpy(at, &v, sizeof v); }
  CBQ_HD V get() const {
    uint32_t words[count];
    CBQ_UNROLL
    for (int i = 0; i < count; ++i) {
      words[i] = at[i];
#ifdef __CUDA_ARCH__
      asm volatile("" : "+r"(words[i]));
#endif
    }
    V v;
    memcpy(&v, words, sizeof v);
    return v;
  }
};

/// e^x: 8 instructions on CUDA, where math::exp takes 25.
CBQ_HD inline float exp(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  return math::exp(x);
#endif
}
CBQ_HD inline double exp(double x) { return math::exp(x); }

/// 1 / (1 + e^-x), on CUDA by an approximate reciprocal (2 ulp).
CBQ_HD inline float sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, 1.0f + ::expf(-x));
#else
  return math::sigmoid(x);
#endif
}
CBQ_HD inline double sigmoid(double x) { return math::sigmoid(x); }

}  // namespace cbq::device_math

namespace cbq::formulas {

/// What a formula takes as its template parameter `Math`. Portable: the same bits on both devices,
/// for results from which quant/ decides integers.
struct PortableMath {
  template <class A>
  CBQ_HD static A exp(A x) {
    return math::exp(x);
  }
  template <class A>
  CBQ_HD static A sigmoid(A x) {
    return math::sigmoid(x);
  }
};
/// Native: the device's own functions, which are faster on CUDA; on the CPU the portable ones.
struct NativeMath {
  template <class A>
  CBQ_HD static A exp(A x) {
    return device_math::exp(x);
  }
  template <class A>
  CBQ_HD static A sigmoid(A x) {
    return device_math::sigmoid(x);
  }
};

}  // namespace cbq::formulas
