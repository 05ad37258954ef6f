// Element types, and how a runtime tag becomes a template argument.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "tensor/error.h"

// The one annotation that lets a function run on both devices. nvcc defines __CUDACC__; a plain
// C++ compiler sees nothing.
#if defined(__CUDACC__)
#define CBQ_HD __host__ __device__
#else
#define CBQ_HD
#endif

namespace cbq {

/// f64 is for truth (gradient checks), f32 for work on the CPU, bf16 for memory traffic on GPUs
/// (with f32 accumulation), f16 for checkpoints, i32 for token ids, u8 for codes.
enum class Dtype { f64, f32, bf16, f16, i32, u8 };

namespace detail {
CBQ_HD inline uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
CBQ_HD inline float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}
CBQ_HD uint16_t f32_to_f16_bits(float x);
CBQ_HD float f16_bits_to_f32(uint16_t h);
}  // namespace detail

/// bfloat16: the upper half of an f32. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  CBQ_HD bf16(float x) {
    uint32_t u = detail::bits_of(x);
    // A NaN whose payload lives in the lower half would round to infinity: set a kept bit instead.
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x0040u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  CBQ_HD operator float() const { return detail::float_of(static_cast<uint32_t>(bits) << 16); }
};

/// IEEE half precision, subnormals included. Conversion rounds to nearest, ties to even.
struct f16 {
  uint16_t bits = 0;
  f16() = default;
  CBQ_HD f16(float x) : bits(detail::f32_to_f16_bits(x)) {}
  CBQ_HD operator float() const { return detail::f16_bits_to_f32(bits); }
};

namespace detail {
CBQ_HD inline uint16_t f32_to_f16_bits(float x) {
  const uint32_t u = bits_of(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65536: inf
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal in f16
    // Adding 0.5 aligns the f32 mantissa so that its last bit has the weight of an f16 subnormal
    // step (2^-24); the hardware's own rounding then is the rounding we want.
    const float shifted = float_of(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return static_cast<uint16_t>(sign | (rounded >> 13));  // a carry into inf is the right answer
}
CBQ_HD inline float f16_bits_to_f32(uint16_t h) {
  const uint32_t sign = (static_cast<uint32_t>(h) & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + 0x38000000u));
  const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // * 2^-24
  return float_of(sign | bits_of(subnormal));
}
}  // namespace detail

/// The type in which values of T are accumulated.
template <class T>
struct accumulate {
  using type = float;
};
template <>
struct accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename accumulate<T>::type;

template <class T>
struct dtype_of;
// clang-format off
template <> struct dtype_of<double>  { static constexpr Dtype value = Dtype::f64; };
template <> struct dtype_of<float>   { static constexpr Dtype value = Dtype::f32; };
template <> struct dtype_of<bf16>    { static constexpr Dtype value = Dtype::bf16; };
template <> struct dtype_of<f16>     { static constexpr Dtype value = Dtype::f16; };
template <> struct dtype_of<int32_t> { static constexpr Dtype value = Dtype::i32; };
template <> struct dtype_of<uint8_t> { static constexpr Dtype value = Dtype::u8; };
// clang-format on

/// Bytes of one element.
constexpr int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 8;
    case Dtype::f32:
    case Dtype::i32:
      return 4;
    case Dtype::bf16:
    case Dtype::f16:
      return 2;
    case Dtype::u8:
      return 1;
  }
  return 0;
}

constexpr bool is_float(Dtype dtype) { return dtype != Dtype::i32 && dtype != Dtype::u8; }

/// "f32", "bf16", ...
const char* name_of(Dtype dtype);
/// The inverse of name_of; throws std::invalid_argument with the known names.
Dtype dtype_from_name(const std::string& name);

/// Calls `f.template operator()<T>(args...)` for the floating-point type behind the tag.
/// `op` names the caller in the error for an integer dtype.
template <class F>
decltype(auto) dispatch_float(Dtype dtype, const char* op, F&& f) {
  switch (dtype) {
    case Dtype::f64:
      return f.template operator()<double>();
    case Dtype::f32:
      return f.template operator()<float>();
    case Dtype::bf16:
      return f.template operator()<bf16>();
    case Dtype::f16:
      return f.template operator()<f16>();
    default:
      throw std::invalid_argument(message_of(op, ": expected a floating-point dtype, got ", dtype));
  }
}

}  // namespace cbq
