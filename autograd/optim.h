// Optimizers over leaf variables, and learning-rate schedules.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/var.h"
#include "kernels/ops.h"

namespace cbq {

/// Variables that share settings. Values and gradients are f32.
struct ParameterGroup {
  std::vector<Var> variables;
  kernels::AdamSettings settings;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// One update from the gradients, which are cleared; learning rates are multiplied by `factor`
  /// (the schedule). A variable without a gradient is left alone.
  void step(double factor) {
    prepare(factor);
    apply();
  }
  // The two halves of step(), for steps that are captured once and replayed. This one writes the
  // numbers of the next update to where the kernels of apply() read them.
  virtual void prepare(double factor) = 0;
  // Makes the update: the same launches every time.
  virtual void apply() = 0;
  /// Drops gradients that are not to be applied.
  void clear_gradients();
  /// What a resumed run needs besides the variables: tensors by name, and the step count.
  virtual std::vector<std::pair<std::string, Tensor>> state() { return {}; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 protected:
  /// `numbers`: how many of a group change from step to step.
  Optimizer(const char* op, std::vector<ParameterGroup> groups, int64_t numbers);

  std::vector<ParameterGroup> groups_;
  Tensor schedule_;  // f64 [groups, numbers], where the variables live
  int64_t steps_ = 0;
};

/// Adam with decoupled weight decay; one launch for all variables (kernels::adam_steps).
class Adam : public Optimizer {
 public:
  explicit Adam(std::vector<ParameterGroup> groups);
  void prepare(double factor) override;
  void apply() override;
  std::vector<std::pair<std::string, Tensor>> state() override;

 private:
  std::vector<Tensor> m_, v_;  // in the order of the groups' variables
};

/// p -= rate sign(g) (SignRound's optimizer, Cheng et al. 2023).
class SignSgd : public Optimizer {
 public:
  explicit SignSgd(std::vector<ParameterGroup> groups);
  void prepare(double factor) override;
  void apply() override;
};

std::vector<std::string> optimizer_names();
/// The optimizer of this name; throws std::invalid_argument with the known names for any other.
std::unique_ptr<Optimizer> make_optimizer(const std::string& name,
                                          std::vector<ParameterGroup> groups);

/// Cosine annealing (Loshchilov & Hutter 2017): 1 at step 0, `floor` at step `total`, after a
/// linear warm-up over the first `warmup` steps: floor + (1 - floor) (1 + cos(pi t)) / 2.
double cosine_annealing(int64_t step, int64_t total, double floor = 0.0, int64_t warmup = 0);

}  // namespace cbq
