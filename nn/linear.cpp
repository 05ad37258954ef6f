#include "nn/linear.h"

#include "autograd/functions.h"

namespace cbq {

Linear::Linear(int64_t in, int64_t out, bool has_bias, Dtype dtype, Device device)
    : weight(Tensor({out, in}, dtype, device)) {
  if (has_bias) bias = Var(Tensor({out}, dtype, device));
}

Var Linear::forward(const Var& x) const {
  if (transform == nullptr) return ag::linear(x, weight, bias);
  return ag::linear(transform->input(x), transform->weight(weight), bias);
}

void Linear::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight);
  if (bias.defined()) visitor(prefix + "bias", bias);
}

}  // namespace cbq
