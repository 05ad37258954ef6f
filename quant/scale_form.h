// How a learned scale depends on its variable.
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace cbq {

/// How the learned scale depends on its variable x (x starts at 0, s0 is the start of the scale):
///   log: s = s0 e^x.   relative: s = s0 (1 + x).   raw: s = s0 + x.
/// The last two never fall below s0 / 1024, so that no step makes a scale zero or negative; there
/// the gradient passes as if they could.
enum class ScaleForm { log, relative, raw };
std::string name_of(ScaleForm form);
/// Throws std::invalid_argument with the known names.
ScaleForm scale_form_from_name(const std::string& name);

/// s for every element of x.
Tensor scale_of(ScaleForm form, const Tensor& start, const Tensor& x);
/// dL/dx = dL/ds ds/dx, with `scale` what scale_of returned.
Tensor scale_gradient(ScaleForm form, const Tensor& start, const Tensor& scale,
                      const Tensor& d_scale);

}  // namespace cbq
