// Differentiable functions of several outputs.
#pragma once

#include "autograd/var.h"

namespace cbq {

/// As differentiable() (autograd/var.h), for a function of several outputs. `vjp` is called once,
/// after the gradients of all outputs are complete. The gradient of an output to which nothing
/// flowed back is undefined. If nothing flowed back to any output, `vjp` is not called.
std::vector<Var> differentiable_outputs(const std::vector<Tensor>& values,
                                        const std::vector<Var>& inputs,
                                        std::function<void(const std::vector<Tensor>& grads)> vjp);

}  // namespace cbq
