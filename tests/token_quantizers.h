// What tests of fused quantizers share: numbers, configurations, comparisons.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "autograd/functions.h"
#include "kernels/ops.h"
#include "nn/deferred.h"
#include "quant/config.h"

namespace cbq::test {

inline Tensor normal(const Shape& shape, double mean, double deviation, uint64_t stream,
                     Dtype dtype) {
  Tensor t(shape, dtype);
  kernels::fill_normal(t, mean, deviation, 47, stream);
  return t;
}

/// What stands before the quantizers. A layer norm with and without weights are two.
enum class Before { identity, rms_norm, layer_norm, affine_layer_norm, swiglu, relu, gelu };
constexpr Before all_before[] = {
    Before::identity, Before::rms_norm, Before::layer_norm, Before::affine_layer_norm,
    Before::swiglu,   Before::relu,     Before::gelu};

inline const char* name_of(Before before) {
  constexpr const char* names[] = {"identity", "rms_norm", "layer_norm", "affine_layer_norm",
                                   "swiglu",   "relu",     "gelu"};
  return names[static_cast<int>(before)];
}

inline bool is_norm(Before before) {
  return before == Before::rms_norm || before == Before::layer_norm ||
         before == Before::affine_layer_norm;
}

inline Deferred deferred(Before before, const Var& x, const Var& up, const Var& weight,
                         const Var& bias, double eps) {
  switch (before) {
    case Before::identity:
      break;
    case Before::rms_norm:
      return Deferred(&ag::rms_norm, x, weight, eps);
    case Before::layer_norm:
      return Deferred(&ag::layer_norm, x, Var(), Var(), eps);
    case Before::affine_layer_norm:
      return Deferred(&ag::layer_norm, x, weight, bias, eps);
    case Before::swiglu:
      return Deferred(&ag::swiglu, x, up);
    case Before::relu:
      return Deferred(&ag::relu, x);
    case Before::gelu:
      return Deferred(&ag::gelu, x);
  }
  return Deferred(x);
}

enum class Form { asymmetric, restricted, full_range };

inline ActivationConfig config_of(int bits, Form form = Form::asymmetric) {
  ActivationConfig config;
  config.bits = bits;
  config.symmetric = form != Form::asymmetric;
  config.form = form == Form::full_range ? SymmetricForm::full_range : SymmetricForm::restricted;
  return config;
}

/// The same bits; any NaN is a NaN.
inline void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.shape(), b.shape()) << what;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  const auto u = a.to_vector<double>(), v = b.to_vector<double>();
  for (size_t i = 0; i < u.size(); ++i) {
    const bool same = u[i] == v[i] ? std::signbit(u[i]) == std::signbit(v[i])
                                   : std::isnan(u[i]) && std::isnan(v[i]);
    ASSERT_TRUE(same) << what << " " << i << ": " << u[i] << " and " << v[i];
  }
}

/// Sums of the same terms in another order, and their roundings.
inline void expect_close(const Tensor& a, const Tensor& b, double tolerance,
                         const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.shape(), b.shape()) << what;
  const auto u = a.to_vector<double>(), v = b.to_vector<double>();
  double squares = 0, count = 1;
  for (double value : v) {
    if (std::isfinite(value)) squares += value * value, ++count;
  }
  for (size_t i = 0; i < u.size(); ++i) {
    if (u[i] == v[i] || (std::isnan(u[i]) && std::isnan(v[i]))) continue;
    ASSERT_NEAR(u[i], v[i], tolerance * (std::abs(v[i]) + std::sqrt(squares / count)))
        << what << " " << i;
  }
}

inline double tolerance_of(Dtype dtype) {
  return dtype == Dtype::f64    ? 1e-12
         : dtype == Dtype::f32  ? 1e-5
         : dtype == Dtype::bf16 ? 1e-2
                                : 2e-3;
}

}  // namespace cbq::test
