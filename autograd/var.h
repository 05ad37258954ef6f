// Var: a tensor that may carry a gradient. Tape: how gradients come about.
//
// Every differentiable function computes its value and, if a tape is recording and an input needs a
// gradient, appends one closure to the tape: the vector-Jacobian product (vjp) that turns the
// gradient of its output into gradients of its inputs. What the closure captures is what is saved
// for backward: Vars and tensors whose values it reads, and a Gradient of each variable that it
// only adds to. The tape itself keeps no values. `Tape::backward` runs the closures from the last
// to the first and destroys each as soon as it has run, so saved tensors are freed on the way.
// There is no graph to sort: the order of recording is a topological order already.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// Where the gradient of a variable gathers, apart from the variable's value. A vjp that does not
/// read a value captures this in place of the Var, so that the tape does not keep the value alive.
/// Undefined for a constant.
class Gradient {
 public:
  Gradient() = default;

  /// Whether anything is to flow back here.
  bool wanted() const { return state_ != nullptr && state_->wanted; }
  /// Shape of the variable. Only for a defined one.
  const Shape& shape() const { return state_->shape; }
  /// What has gathered; undefined before anything has.
  const Tensor& sum() const;
  void clear() const;
  /// Adds `contribution`. The first one is kept without a copy, so the caller hands over ownership:
  /// it must not write to `contribution` afterwards.
  void accumulate(Tensor contribution) const;
  /// Adds a contribution whose storage someone else still uses (a view of an output's gradient):
  /// the first one is copied.
  void accumulate_copy(const Tensor& contribution) const;

 private:
  friend class Var;
  struct State {
    Shape shape;
    Tensor sum;
    bool wanted;
  };
  std::shared_ptr<State> state_;
};

class Var {
 public:
  Var() = default;
  /// A constant, or with `requires_grad` a leaf whose gradient backward() accumulates.
  explicit Var(Tensor value, bool requires_grad = false)
      : state_(std::make_shared<State>(State{std::move(value), Gradient()})) {
    if (requires_grad) set_requires_grad(true);
  }

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const { return state_->value; }
  const Shape& shape() const { return state_->value.shape(); }
  int64_t size(int64_t axis) const { return state_->value.size(axis); }
  Dtype dtype() const { return state_->value.dtype(); }
  Device device() const { return state_->value.device(); }

  bool requires_grad() const { return state_ != nullptr && state_->gradient.wanted(); }
  void set_requires_grad(bool on);
  /// Replaces the value (loading a checkpoint, moving to a device); the gradient is dropped.
  void set_value(Tensor value);

  /// Where this variable's gradient gathers, without the value. A vjp that does not read the value
  /// captures this. Undefined for an undefined Var and for one that never required a gradient.
  Gradient gradient() const { return state_ != nullptr ? state_->gradient : Gradient(); }
  /// The gradient; undefined before anything has flowed back.
  const Tensor& grad() const { return state_->gradient.sum(); }
  void clear_grad() { state_->gradient.clear(); }
  /// gradient().accumulate(contribution), also for a variable that never required a gradient.
  void accumulate(Tensor contribution) const { gathering().accumulate(std::move(contribution)); }
  void accumulate_copy(const Tensor& contribution) const {
    gathering().accumulate_copy(contribution);
  }

  /// Same variable (not: same values).
  bool is(const Var& other) const { return state_ == other.state_; }

 private:
  struct State {
    Tensor value;
    Gradient gradient;
  };
  const Gradient& gathering() const;
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

// clang-format off
/// The usual end of a differentiable function. Wraps `value`; if should_record(inputs), marks the
/// result as needing a gradient and records `vjp(grad_of_result)`.
///
///   // reads x, so it captures x:
///   return differentiable(y, {&x}, [x](const Tensor& dy) { ... x.value() ... });
///   // reads no value:
///   return differentiable(y, {&x}, [x = x.gradient()](const Tensor& dy) { ... });
///
/// Nobody reads `grad_of_result` after the vjp, so its last use there may pass it on without a copy.
// clang-format on
Var differentiable(Tensor value, std::initializer_list<const Var*> inputs,
                   std::function<void(const Tensor& grad)> vjp);

}  // namespace cbq
