// Checks a differentiable function's gradients against central differences, in f64.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/var.h"

namespace cbq {

struct GradcheckResult {
  bool passed = true;
  double worst = 0.0;   // largest |analytic - numeric| / max(1, |numeric|); infinity for NaN
  std::string message;  // which input and element was worst
};

/// f maps f64 leaf variables to one output of any shape; the scalar that is differentiated is
/// sum_i c_i f_i with fixed pseudo-random c, so that errors cannot cancel by symmetry.
/// Every element of every input is moved by +-`step`.
GradcheckResult gradcheck(const std::function<Var(const std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, double step = 1e-5,
                          double tolerance = 1e-7);

}  // namespace cbq
