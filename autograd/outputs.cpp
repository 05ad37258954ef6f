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
  Tape::active()->record([outputs, vjp = std::move(vjp)]() mutable {
    std::vector<Tensor> grads;
    for (const Var& output : outputs) grads.push_back(output.grad());
    const auto arrived = [](const Tensor& grad) { return grad.defined(); };
    if (std::none_of(grads.begin(), grads.end(), arrived)) return;
    vjp(grads);
    for (Var& output : outputs) output.clear_grad();
  });
  return outputs;
}

}  // namespace cbq
