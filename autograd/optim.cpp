#include "autograd/optim.h"

#include <cmath>

namespace cbq {
namespace {

void check_group(const char* op, const ParameterGroup& group) {
  for (const Var& variable : group.variables) {
    check(variable.dtype() == Dtype::f32, op, ": optimized variables are f32, got ",
          name_of(variable.dtype()));
  }
}

}  // namespace

Adam::Adam(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
  for (const ParameterGroup& group : groups_) {
    check_group("Adam", group);
    for (const Var& variable : group.variables) {
      m_.push_back(Tensor::zeros(variable.shape(), Dtype::f32, variable.device()));
      v_.push_back(Tensor::zeros(variable.shape(), Dtype::f32, variable.device()));
    }
  }
}

void Adam::step(double factor) {
  ++steps_;
  size_t i = 0;
  for (ParameterGroup& group : groups_) {
    kernels::AdamSettings settings = group.settings;
    settings.rate *= factor;
    for (Var& variable : group.variables) {
      if (variable.grad().defined()) {
        kernels::adam_step(variable.value(), variable.grad(), m_[i], v_[i], settings, steps_);
        variable.clear_grad();
      }
      ++i;
    }
  }
}

std::vector<std::pair<std::string, Tensor>> Adam::state() {
  std::vector<std::pair<std::string, Tensor>> all;
  for (size_t i = 0; i < m_.size(); ++i) {
    all.emplace_back("m." + std::to_string(i), m_[i]);
    all.emplace_back("v." + std::to_string(i), v_[i]);
  }
  return all;
}

SignSgd::SignSgd(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
  for (const ParameterGroup& group : groups_) check_group("SignSgd", group);
}

void SignSgd::step(double factor) {
  ++steps_;
  for (ParameterGroup& group : groups_) {
    for (Var& variable : group.variables) {
      if (!variable.grad().defined()) continue;
      kernels::sign_sgd_step(variable.value(), variable.grad(), group.settings.rate * factor);
      variable.clear_grad();
    }
  }
}

std::unique_ptr<Optimizer> make_optimizer(const std::string& name,
                                          std::vector<ParameterGroup> groups) {
  if (name == "adam") return std::make_unique<Adam>(std::move(groups));
  check(name == "signsgd", "unknown optimizer '", name, "'; known: adam, signsgd");
  return std::make_unique<SignSgd>(std::move(groups));
}

double cosine_annealing(int64_t step, int64_t total, double floor, int64_t warmup) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (step >= total) return floor;
  const double t = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(3.14159265358979323846 * t));
}

}  // namespace cbq
