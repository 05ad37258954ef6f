#include "autograd/var.h"

#include "kernels/ops.h"

namespace cbq {
namespace {
thread_local Tape* active_tape = nullptr;
}

const Tensor& Gradient::sum() const {
  static const Tensor none;
  return state_ != nullptr ? state_->sum : none;
}

void Gradient::clear() const {
  if (state_ != nullptr) state_->sum = Tensor();
}

void Gradient::accumulate(Tensor contribution) const {
  check_shape("accumulate", "gradient", contribution, state_->shape);
  if (!state_->sum.defined()) {
    state_->sum = std::move(contribution);
  } else {
    kernels::add_into(state_->sum, contribution);
  }
}

void Gradient::accumulate_copy(const Tensor& contribution) const {
  accumulate(state_->sum.defined() ? contribution : contribution.clone());
}

const Gradient& Var::gathering() const {
  std::shared_ptr<Gradient::State>& gradient = state_->gradient.state_;
  if (gradient == nullptr) {
    gradient = std::make_shared<Gradient::State>(Gradient::State{shape(), Tensor(), false});
  }
  return state_->gradient;
}

void Var::set_requires_grad(bool on) {
  if (on || state_->gradient.state_ != nullptr) gathering().state_->wanted = on;
}

void Var::set_value(Tensor value) {
  state_->value = std::move(value);
  if (state_->gradient.state_ == nullptr) return;
  state_->gradient.state_->shape = shape();
  state_->gradient.clear();
}

Tape::Tape() : outer_(active_tape) { active_tape = this; }
Tape::~Tape() { active_tape = outer_; }
Tape* Tape::active() { return active_tape; }

void Tape::backward(const Var& output, Tensor seed) {
  check(output.defined(), "backward: undefined output");
  check(output.requires_grad(),
        "backward: the output does not depend on any variable that needs a "
        "gradient (or was computed outside this tape)");
  if (!seed.defined()) {
    check(output.value().count() == 1, "backward: output of shape ", output.shape(),
          " is no scalar; give a seed");
    seed = Tensor(output.shape(), output.dtype(), output.device());
    kernels::fill(seed, 1.0);
  }
  output.accumulate(std::move(seed));
  NoGrad none;  // vjps are arithmetic on tensors, nothing in them is to be recorded
  while (!entries_.empty()) {
    std::function<void()> vjp = std::move(entries_.back());
    entries_.pop_back();
    vjp();
  }
}

NoGrad::NoGrad() : suspended_(active_tape) { active_tape = nullptr; }
NoGrad::~NoGrad() { active_tape = suspended_; }

bool should_record(std::initializer_list<const Var*> inputs) {
  if (active_tape == nullptr) return false;
  for (const Var* input : inputs) {
    if (input->requires_grad()) return true;
  }
  return false;
}

Var differentiable(Tensor value, std::initializer_list<const Var*> inputs,
                   std::function<void(const Tensor&)> vjp) {
  if (!should_record(inputs)) return Var(std::move(value));
  Var result(std::move(value), true);
  Tape::active()->record([gradient = result.gradient(), vjp = std::move(vjp)]() {
    if (!gradient.sum().defined()) return;  // nothing downstream used this result
    vjp(gradient.sum());
    gradient.clear();
  });
  return result;
}

}  // namespace cbq
