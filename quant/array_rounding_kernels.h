// The loops of an array rounding scheme around its functions. They see the weight as the kernels of
// scalar schemes do (quant/rounding_view.h), range by range.
#pragma once

#include <optional>
#include <utility>

#include "quant/rounding.h"

namespace cbq::detail {

/// u = w/s and p [out, in] (zeros without variables), f32, or f64 for an f64 weight.
std::pair<Tensor, Tensor> scaled_weight_and_variable(const RoundingPass& pass);

/// clamp(v0 + p, low, high); an undefined v0 is 0.
Tensor bounded_variable(const Tensor& v0, const Tensor& p, double low, double high);

/// The first element that is no integer, if there is one. NaN is none.
std::optional<double> first_fraction(const Tensor& r);

/// s (clamp(r + z, 0, 2^b - 1) - z), or with u8 the code itself.
Tensor array_weight(const RoundingPass& pass, const Tensor& r, Dtype dtype);

/// What the gradients are made of, each [out, in]; undefined d_dv and d_du are 1.
struct ArraySlopes {
  Tensor u, v, r, d_dv, d_du;
  Tensor relaxed, d_relaxed;  // where the regularizer's weight is not 0
  double weight = 0.0, beta = 2.0;
  double v_min = 0.0, v_max = 0.0;
};

/// RoundingScheme::backward of a scheme named `name`.
RoundingGradients array_gradients(const std::string& name, const RoundingPass& pass,
                                  const Tensor& dw, const ArraySlopes& slopes);

/// dW^ dr/du inside the grid, 0 outside.
Tensor array_weight_gradient(const RoundingPass& pass, const Tensor& dw, const Tensor& r,
                             const Tensor& d_du);

/// The regularizer's {weight, beta} of this step.
std::pair<double, double> numbers_now(const std::string& name,
                                      const RoundingRegularizer& regularizer, Device device);

}  // namespace cbq::detail
