// A rounding scheme whose functions take whole arrays: for schemes that are not C++, and to try one
// before it becomes a struct of scalar functions (quant/rounding_kernels.h). On the CPU.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "quant/rounding.h"

namespace cbq {

/// What a scheme is: the members of ScalarRounding, with functions of [out, in] tensors u = w/s and
/// v, f32 (f64 for an f64 weight), that return such tensors. An empty function has the default of
/// docs/add-a-rounding-scheme.md; `hard` has none.
struct ArrayScheme {
  using OfBoth = std::function<Tensor(const Tensor& u, const Tensor& v)>;
  using OfVariable = std::function<Tensor(const Tensor& v)>;

  std::string name, help;
  Parameterization parameterization = Parameterization::dense;
  Start start = Start::nearest;
  bool relaxes = false;  // `soft` differs from `hard`; needs it, and `relaxed` and `d_relaxed`
  double v_min = -std::numeric_limits<double>::infinity();
  double v_max = std::numeric_limits<double>::infinity();
  double rate = 0.01;  // RoundingScheme::default_rate
  std::function<Tensor(const Tensor& u, Start start)> initial;
  OfBoth soft, hard, d_dv, d_du;
  OfVariable relaxed, d_relaxed;
};

/// The scheme as RoundingOf<Scheme> computes it with the same functions: the same equations, and of
/// f32 and bf16 weights the same bits, since g++ adds up both loops in one order. Throws
/// std::invalid_argument for a scheme that lacks a function, and when it is used: for a weight that
/// is not on the CPU, for a result of another shape or dtype, and for hard values that are no
/// integers.
std::unique_ptr<RoundingScheme> array_rounding(ArrayScheme scheme);

}  // namespace cbq
