// Norms over the last axis, as parts of a model.
#pragma once

#include "autograd/functions.h"
#include "nn/deferred.h"
#include "nn/module.h"
#include "nn/parameter_transform.h"

namespace cbq {

/// y = x * rsqrt(mean(x^2) + eps) * weight (kernels::rms_norm).
class RmsNorm : public Module {
 public:
  RmsNorm() = default;
  /// Allocated, not initialized.
  RmsNorm(int64_t width, double epsilon, Dtype dtype, Device device);
  Var forward(const Var& x) const { return deferred(x).value(); }
  Deferred deferred(const Var& x) const;
  /// As forward, for every part of `width` elements of a row by itself: query-key norms.
  Var forward_parts(const Var& x) const;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;

  Var weight;  // [width]
  double eps = 1e-6;
  std::shared_ptr<const ParameterTransform> equivalent;  // as of Linear
};

/// y = (x - mean) / sqrt(variance + eps) * weight + bias (kernels::layer_norm).
class LayerNorm : public Module {
 public:
  LayerNorm() = default;
  /// `affine` false: neither weight nor bias. Allocated, not initialized.
  LayerNorm(int64_t width, double epsilon, bool affine, Dtype dtype, Device device);
  Var forward(const Var& x) const { return deferred(x).value(); }
  Deferred deferred(const Var& x) const;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;

  Var weight, bias;  // [width], or undefined
  double eps = 1e-5;
  std::shared_ptr<const ParameterTransform> equivalent;
};

}  // namespace cbq
