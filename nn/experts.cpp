#include "nn/experts.h"

#include "autograd/functions.h"
#include "autograd/routed_rows.h"

namespace cbq {
namespace {

/// Marks the `count` largest of a row with 1. Of equal ones the first are taken; a NaN is taken
/// where nothing else is left to compare, so that there are always `count`.
void mark_largest(const double* row, int64_t columns, int64_t count, double* marks) {
  for (int64_t taken = 0; taken < count; ++taken) {
    int64_t largest = -1;
    for (int64_t c = 0; c < columns; ++c) {
      if (marks[c] != 0.0) continue;
      if (largest < 0 || row[c] > row[largest]) largest = c;
    }
    marks[largest] = 1.0;
  }
}

Tensor ids_on(const std::vector<int32_t>& ids, Device device) {
  return Tensor::from(ids, {static_cast<int64_t>(ids.size())}, Dtype::i32, device);
}

}  // namespace

Experts::Experts(const ExpertsConfig& config, Dtype dtype, Device device)
    : config_(config), router_(Tensor({config.count, config.hidden}, dtype, device)) {
  check(config.per_token > 0 && config.per_token <= config.count, "Experts: ", config.per_token,
        " of ", config.count, " experts for a token");
  for (int64_t e = 0; e < config.count; ++e) {
    Expert& expert = experts_.emplace_back();
    expert.gate = Linear(config.hidden, config.width, false, dtype, device);
    expert.up = Linear(config.hidden, config.width, false, dtype, device);
    expert.down = Linear(config.width, config.hidden, false, dtype, device);
    expert.gate.expert = expert.up.expert = expert.down.expert = e;
  }
}

Var Experts::weights(const Var& x, std::vector<std::vector<int32_t>>& of_expert) const {
  const Dtype exact = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Var scores = ag::cast(ag::linear(x, router_, Var()), exact);
  const Var probabilities = ag::softmax(scores);
  const std::vector<double> values = probabilities.value().to_vector<double>();
  std::vector<double> chosen(values.size(), 0.0);
  const int64_t count = config_.count;
  for (int64_t t = 0; t < x.size(0); ++t) {
    double* marks = chosen.data() + t * count;
    mark_largest(values.data() + t * count, count, config_.per_token, marks);
    for (int64_t e = 0; e < count; ++e) {
      if (marks[e] != 0.0) of_expert[static_cast<size_t>(e)].push_back(static_cast<int32_t>(t));
    }
  }
  const Var mask(Tensor::from(chosen, probabilities.shape(), exact, x.device()));
  Var weights = ag::mul(probabilities, mask);
  if (config_.normalized) {
    const Tensor ones({count, count}, exact, x.device());  // sums, in every column
    kernels::fill(ones, 1.0);
    const auto no = kernels::Trans::no;
    weights = ag::div(weights, ag::matmul(weights, no, Var(ones), no));
  }
  return ag::cast(ag::cast(weights, x.dtype()), exact);
}

Var Experts::forward(const Var& x, std::vector<int64_t>* rows) const {
  std::vector<std::vector<int32_t>> of_expert(experts_.size());
  const Var all_weights = weights(x, of_expert);
  std::vector<size_t> called;
  std::vector<Tensor> ids;
  for (size_t e = 0; e < experts_.size(); ++e) {
    if (rows != nullptr) rows->at(e) += static_cast<int64_t>(of_expert[e].size());
    if (of_expert[e].empty()) continue;
    called.push_back(e);
    ids.push_back(ids_on(of_expert[e], x.device()));
  }
  const std::vector<Var> inputs = ag::split_rows(x, ids),
                         factors = ag::split_rows(all_weights, ids);
  std::vector<Var> outputs;
  for (size_t i = 0; i < called.size(); ++i) {
    const Expert& expert = experts_[called[i]];
    const auto [gate, up] = forward_each({&expert.gate, &expert.up}, Deferred(inputs[i]));
    const Var y = expert.down.forward(Deferred(&ag::swiglu, gate, up));
    const Var factor = ag::take_columns(factors[i], static_cast<int64_t>(called[i]), 1);
    outputs.push_back(ag::rescale(y, ag::reshape(factor, {ids[i].count()}), Var()));
  }
  return ag::merge_rows(outputs, ids, x.size(0));
}

void Experts::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "gate.weight", router_);
  for (const NamedLinear& l : linears(prefix)) l.linear->visit(l.name + ".", visitor);
}

std::vector<NamedLinear> Experts::linears(const std::string& prefix) {
  std::vector<NamedLinear> all;
  for (size_t e = 0; e < experts_.size(); ++e) {
    const std::string path = prefix + "experts." + std::to_string(e) + ".";
    all.push_back({path + "gate_proj", &experts_[e].gate});
    all.push_back({path + "up_proj", &experts_[e].up});
    all.push_back({path + "down_proj", &experts_[e].down});
  }
  return all;
}

std::vector<Linear*> Experts::readers() {
  std::vector<Linear*> all;
  for (Expert& expert : experts_) {
    all.push_back(&expert.gate);
    all.push_back(&expert.up);
  }
  return all;
}

std::vector<ScalingSite> Experts::scaling_sites(const std::string& prefix) {
  std::vector<ScalingSite> sites;
  for (size_t e = 0; e < experts_.size(); ++e) {
    ScalingSite site{prefix + "experts." + std::to_string(e) + ".up_proj", {&experts_[e].down}};
    site.producer = &experts_[e].up;
    site.row_writers = {&experts_[e].gate, &experts_[e].up};
    sites.push_back(std::move(site));
  }
  return sites;
}

}  // namespace cbq
