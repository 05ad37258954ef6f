// Differentiable functions of several outputs.
#pragma once

#include "autograd/var.h"

namespace cbq {

/// As differentiable() (autograd/var.h), for a function of several outputs. `vjp` is called once,
/// when the gradients of all outputs are there; those to which nothing has flowed back are
/// undefined. It is not called if that is all of them.
std::vector<Var> differentiable_outputs(const std::vector<Tensor>& values,
                                        const std::vector<Var>& inputs,
                                        std::function<void(const std::vector<Tensor>& grads)> vjp);

}  // namespace cbq
