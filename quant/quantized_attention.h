// The quantizers of a block's queries, keys and values.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/block.h"
#include "quant/activation_quantizer.h"

namespace cbq {

/// An operand of the attention products has a range per token and head (as OmniQuant's at W4A4), or
/// static ranges of clusters of its channels, each inside a head (RPTQ). Nothing of it is learned.
class QuantizedAttention : public AttentionTransform {
 public:
  /// Ranges per token and head, until set_clusters() or restore() say otherwise; bits and symmetry
  /// of `config`. `prefix`: of the block.
  QuantizedAttention(const ActivationConfig& config, Device device, const std::string& prefix);

  Var operand(const Var& x, int64_t head_dim, AttentionOperand which) override;
  QuantizedAttention* quantizers() override { return this; }

  /// Static ranges for an operand: `sizes` channels each. Throws std::invalid_argument unless the
  /// config has ranges per cluster.
  void set_clusters(AttentionOperand which, std::vector<int64_t> sizes);
  /// Widens the static ranges of an operand; nothing for one with a range per token.
  void observe(const Tensor& x, AttentionOperand which);
  /// How many clusters an operand has; 0: a range per token and head.
  int64_t clusters(AttentionOperand which) const;

  /// "queries.range" [clusters, 2] and "queries.clusters" [clusters] f32, and so on, of operands
  /// with static ranges that have observed. restore() is the way back.
  std::vector<std::pair<std::string, Tensor>> state() const;
  void restore(const std::vector<std::pair<std::string, Tensor>>& values);
  const ActivationConfig& config() const { return config_; }

 private:
  std::unique_ptr<ActivationQuantizer>& clustered(AttentionOperand which) {
    return clustered_[static_cast<size_t>(which)];
  }
  const std::unique_ptr<ActivationQuantizer>& clustered(AttentionOperand which) const {
    return clustered_[static_cast<size_t>(which)];
  }

  ActivationConfig config_;
  Device device_;
  std::string prefix_;
  ActivationQuantizer per_token_;
  std::array<std::unique_ptr<ActivationQuantizer>, 3> clustered_;  // by operand; null: per_token_
};

}  // namespace cbq
