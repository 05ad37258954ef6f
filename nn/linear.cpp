#include "nn/linear.h"

#include "autograd/functions.h"

namespace cbq {

Linear::Linear(int64_t in, int64_t out, bool has_bias, Dtype dtype, Device device)
    : weight(Tensor({out, in}, dtype, device)) {
  if (has_bias) bias = Var(Tensor({out}, dtype, device));
}

Var Linear::forward(const Var& x) const {
  const Var seen = online ? online->apply(x) : x;
  return multiply(transform ? transform->input(seen) : seen);
}

Var Linear::forward(const Deferred& x) const { return forward_each({this}, x)[0]; }

Var Linear::multiply(const Var& input) const {
  const Var w = current_weight();
  return ag::linear(input, transform ? transform->weight(w) : w, current_bias());
}

namespace {

/// The linears' inputs in one pass; empty where they have to be computed step by step.
std::vector<Var> fused_inputs(std::span<const Linear* const> linears, const Deferred& x) {
  std::vector<const FusedInput*> readers;
  for (const Linear* linear : linears) {
    if (linear->online) return {};
    readers.push_back(linear->transform ? linear->transform->fused_input() : nullptr);
    if (readers.back() == nullptr) return {};
  }
  return readers.front()->inputs(x, readers);
}

}  // namespace

// From the last to the first: a tape goes back from the first to the last.
void detail::forward_each(std::span<const Linear* const> linears, const Deferred& x,
                          std::span<Var> y) {
  const std::vector<Var> inputs = fused_inputs(linears, x);
  const Var shared = inputs.empty() ? x.value() : Var();
  for (size_t i = linears.size(); i-- > 0;) {
    y[i] = inputs.empty() ? linears[i]->forward(shared) : linears[i]->multiply(inputs[i]);
  }
}

void Linear::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight);
  if (bias.defined()) visitor(prefix + "bias", bias);
}

}  // namespace cbq
