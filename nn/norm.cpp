#include "nn/norm.h"

#include "autograd/functions.h"

namespace cbq {

RmsNorm::RmsNorm(int64_t width, double epsilon, Dtype dtype, Device device)
    : weight(Tensor({width}, dtype, device)), eps(epsilon) {}

Deferred RmsNorm::deferred(const Var& x) const {
  return Deferred(&ag::rms_norm, x, equivalent ? equivalent->weight(weight) : weight, eps);
}

Var RmsNorm::forward_parts(const Var& x) const {
  return ag::reshape(forward(ag::reshape(x, {-1, weight.size(0)})), x.shape());
}

void RmsNorm::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight);
}

LayerNorm::LayerNorm(int64_t width, double epsilon, bool affine, Dtype dtype, Device device)
    : eps(epsilon) {
  if (!affine) return;
  weight = Var(Tensor({width}, dtype, device));
  bias = Var(Tensor({width}, dtype, device));
}

Deferred LayerNorm::deferred(const Var& x) const {
  if (!equivalent) return Deferred(&ag::layer_norm, x, weight, bias, eps);
  return Deferred(&ag::layer_norm, x, equivalent->weight(weight), equivalent->bias(bias, weight),
                  eps);
}

void LayerNorm::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  if (!weight.defined()) return;
  visitor(prefix + "weight", weight);
  visitor(prefix + "bias", bias);
}

}  // namespace cbq
