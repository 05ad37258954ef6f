// Var: a tensor that may carry a gradient. Tape: how gradients come about.
//
// Every differentiable function computes its value and, if a tape is recording and an input needs a
// gradient, appends one closure to the tape: the vector-Jacobian product (vjp) that turns the
// gradient of its output into gradients of its inputs. What the closure captures is what is saved
// for backward. `Tape::backward` runs the closures from the last to the first and destroys each as
// soon as it has run, so saved tensors are freed on the way. There is no graph to sort: the order
// of recording is a topological order already.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

class Var {
 public:
  Var() = default;
  /// A constant, or with `requires_grad` a leaf whose gradient backward() accumulates.
  explicit Var(Tensor value, bool requires_grad = false)
      : state_(std::make_shared<State>(State{std::move(value), Tensor(), requires_grad})) {}

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const { return state_->value; }
  const Shape& shape() const { return state_->value.shape(); }
  int64_t size(int64_t axis) const { return state_->value.size(axis); }
  Dtype dtype() const { return state_->value.dtype(); }
  Device device() const { return state_->value.device(); }

  bool requires_grad() const { return state_ != nullptr && state_->requires_grad; }
  void set_requires_grad(bool on) { state_->requires_grad = on; }
  /// Replaces the value (loading a checkpoint, moving to a device); the gradient is dropped.
  void set_value(Tensor value);

  /// The gradient; undefined before anything has flowed back.
  const Tensor& grad() const { return state_->grad; }
  void clear_grad() { state_->grad = Tensor(); }
  /// grad += contribution. The first contribution is kept without a copy, so the caller hands over
  /// ownership: it must not write to `contribution` afterwards.
  void accumulate(Tensor contribution) const;
  /// grad += contribution, for a contribution whose storage someone else still uses (a view of an
  /// output's gradient): the first one is copied.
  void accumulate_copy(const Tensor& contribution) const;

  /// Same variable (not: same values).
  bool is(const Var& other) const { return state_ == other.state_; }

 private:
  struct State {
    Tensor value;
    Tensor grad;
    bool requires_grad;
  };
  std::shared_ptr<State> state_;
};

/// Records while it lives; tapes nest, the innermost records.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The innermost tape of this thread, or nullptr.
  static Tape* active();

  void record(std::function<void()> vjp) { entries_.push_back(std::move(vjp)); }
  size_t size() const { return entries_.size(); }

  /// Runs all vjps from the last to the first after seeding `output` with `seed` (ones for a
  /// scalar when undefined). Nothing is recorded meanwhile. The tape is empty afterwards.
  void backward(const Var& output, Tensor seed = Tensor());

 private:
  std::vector<std::function<void()>> entries_;
  Tape* outer_;
};

/// No tape records while it lives (evaluation, the original model's targets).
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape* suspended_;
};

/// True if a tape is recording and one of `inputs` needs a gradient: then a function must record.
bool should_record(std::initializer_list<const Var*> inputs);

/// The usual end of a differentiable function. Wraps `value`; if should_record(inputs), marks the
/// result as needing a gradient and records `vjp(grad_of_result)`.
///
///   return differentiable(y, {&x}, [x](const Tensor& dy) { x.accumulate(...dy...); });
Var differentiable(Tensor value, std::initializer_list<const Var*> inputs,
                   std::function<void(const Tensor& grad)> vjp);

}  // namespace cbq
