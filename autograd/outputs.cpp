#include "autograd/outputs.h"

#include <algorithm>

namespace cbq {

std::vector<Var> differentiable_outputs(const std::vector<Tensor>& values,
                                        const std::vector<Var>& inputs,
                                        std::function<void(const std::vector<Tensor>& grads)> vjp) {
  const bool record = std::any_of(inputs.begin(), inputs.end(),
                                  [](const Var& input) { return should_record({&input}); });
  std::vector<Var> outputs;
  for (const Tensor& value : values) outputs.emplace_back(value, record);
  if (!record) return outputs;
  std::vector<Gradient> gradients;
  for (const Var& output : outputs) gradients.push_back(output.gradient());
  Tape::active()->record([gradients, vjp = std::move(vjp)]() {
    std::vector<Tensor> grads;
    for (const Gradient& gradient : gradients) grads.push_back(gradient.sum());
    const auto arrived = [](const Tensor& grad) { return grad.defined(); };
    if (std::none_of(grads.begin(), grads.end(), arrived)) return;
    vjp(grads);
    for (const Gradient& gradient : gradients) gradient.clear();
  });
  return outputs;
}

}  // namespace cbq
