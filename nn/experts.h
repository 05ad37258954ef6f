// Experts: a feed-forward part that consists of many small ones, of which a router chooses a few
// for every token (Shazeer et al. 2017; Fedus et al. 2022).
#pragma once

#include <vector>

#include "nn/block.h"

namespace cbq {

struct ExpertsConfig {
  int64_t hidden = 0;     // width of the residual stream
  int64_t width = 0;      // of one expert: rows of its gate and up
  int64_t count = 0;      // experts
  int64_t per_token = 0;  // that the router chooses, at most `count`
  bool normalized = false;
};

/// x [tokens, hidden] -> the same shape. With the router R [count, hidden]:
///   p_t = softmax(R x_t), in f32 (f64 for f64)
///   y_t = sum over the per_token experts e of the largest p_te of w_te expert_e(x_t)
///   w_te = p_te, or with `normalized` p_te divided by the sum over the chosen experts, rounded to
///   the dtype of x
///   expert_e(x) = down_e (silu(gate_e x) * up_e x)
/// Of equal probabilities the first experts are chosen. The router is a parameter, but no linear
/// layer: it stays in floating point. Which experts are chosen is read on the host.
class Experts : public Module {
 public:
  Experts() = default;
  /// Allocated, not initialized.
  Experts(const ExpertsConfig& config, Dtype dtype, Device device);

  /// `rows`, if given: element e grows by the tokens that expert e gets. Experts that get none are
  /// not called.
  Var forward(const Var& x, std::vector<int64_t>* rows) const;
  /// "gate.weight" is the router, "experts.3.up_proj.weight" a layer of an expert.
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;

  /// Expert by expert gate, up and down, as "<prefix>experts.3.gate_proj".
  std::vector<NamedLinear> linears(const std::string& prefix);
  /// All gates and ups, which read one activation.
  std::vector<Linear*> readers();
  /// From every up to its down.
  std::vector<ScalingSite> scaling_sites(const std::string& prefix);
  Var& router() { return router_; }

 private:
  struct Expert {
    Linear gate, up, down;
  };
  /// The chosen experts' weights [tokens, count], and 0 for all others. `of_expert` gets every
  /// expert's tokens.
  Var weights(const Var& x, std::vector<std::vector<int32_t>>& of_expert) const;

  ExpertsConfig config_;
  Var router_;  // [count, hidden]
  std::vector<Expert> experts_;
};

}  // namespace cbq
