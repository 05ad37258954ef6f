#include "autograd/optim.h"

#include <array>
#include <cmath>

namespace cbq {

Optimizer::Optimizer(const char* op, std::vector<ParameterGroup> groups, int64_t numbers)
    : groups_(std::move(groups)) {
  Device device;
  for (const ParameterGroup& group : groups_) {
    for (const Var& variable : group.variables) {
      check(variable.dtype() == Dtype::f32, op, ": optimized variables are f32, got ",
            variable.dtype());
      device = variable.device();
    }
  }
  schedule_ = Tensor::zeros({static_cast<int64_t>(groups_.size()), numbers}, Dtype::f64, device);
}

void Optimizer::clear_gradients() {
  for (ParameterGroup& group : groups_) {
    for (Var& variable : group.variables) variable.clear_grad();
  }
}

Adam::Adam(std::vector<ParameterGroup> groups) : Optimizer("Adam", std::move(groups), 3) {
  for (const ParameterGroup& group : groups_) {
    for (const Var& variable : group.variables) {
      m_.push_back(Tensor::zeros(variable.shape(), Dtype::f32, variable.device()));
      v_.push_back(Tensor::zeros(variable.shape(), Dtype::f32, variable.device()));
    }
  }
}

void Adam::prepare(double factor) {
  ++steps_;
  std::vector<double> values;
  for (const ParameterGroup& group : groups_) {
    const std::array<double, 3> numbers = group.settings.at_step(factor, steps_);
    values.insert(values.end(), numbers.begin(), numbers.end());
  }
  kernels::write_values(schedule_, values);
}

void Adam::apply() {
  std::vector<kernels::AdamVariable> variables;
  size_t i = 0;
  int64_t at = 0;
  for (const ParameterGroup& group : groups_) {
    for (const Var& x : group.variables) {
      if (x.grad().defined()) {
        variables.push_back({x.value(), x.grad(), m_[i], v_[i], group.settings, at});
      }
      ++i;
    }
    at += schedule_.size(1);
  }
  kernels::adam_steps(variables, schedule_);
  clear_gradients();
}

std::vector<std::pair<std::string, Tensor>> Adam::state() {
  std::vector<std::pair<std::string, Tensor>> all;
  for (size_t i = 0; i < m_.size(); ++i) {
    all.emplace_back("m." + std::to_string(i), m_[i]);
    all.emplace_back("v." + std::to_string(i), v_[i]);
  }
  return all;
}

SignSgd::SignSgd(std::vector<ParameterGroup> groups) : Optimizer("SignSgd", std::move(groups), 1) {}

void SignSgd::prepare(double factor) {
  ++steps_;
  std::vector<double> values;
  for (const ParameterGroup& group : groups_) values.push_back(group.settings.rate * factor);
  kernels::write_values(schedule_, values);
}

void SignSgd::apply() {
  std::vector<kernels::SignVariable> variables;
  int64_t at = 0;
  for (const ParameterGroup& group : groups_) {
    for (const Var& x : group.variables) {
      if (x.grad().defined()) variables.push_back({x.value(), x.grad(), at});
    }
    ++at;
  }
  kernels::sign_sgd_steps(variables, schedule_);
  clear_gradients();
}

std::vector<std::string> optimizer_names() { return {"adam", "signsgd"}; }

std::unique_ptr<Optimizer> make_optimizer(const std::string& name,
                                          std::vector<ParameterGroup> groups) {
  if (name == "adam") return std::make_unique<Adam>(std::move(groups));
  if (name == "signsgd") return std::make_unique<SignSgd>(std::move(groups));
  std::string known;
  for (const std::string& n : optimizer_names()) known += (known.empty() ? "" : ", ") + n;
  throw std::invalid_argument(message_of("unknown optimizer '", name, "'; known: ", known));
}

double cosine_annealing(int64_t step, int64_t total, double floor, int64_t warmup) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (step >= total) return floor;
  const double t = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(3.14159265358979323846 * t));
}

}  // namespace cbq
