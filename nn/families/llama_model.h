// The LLaMA architecture's block and model, with the options by which other families differ.
#pragma once

#include "nn/norm.h"
#include "nn/rope.h"
#include "nn/transformer.h"

namespace cbq {

/// The options of ModelConfig: biases, norms of queries and keys, multipliers.
class LlamaBlock : public Block {
 public:
  /// `rope` outlives the block. `turns`: whether queries and keys pass the rotary embedding.
  /// `dense` false: gate_, up_ and down_ are left out, for a block with another feed-forward part.
  LlamaBlock(const ModelConfig& c, const Rope* rope, bool turns, Dtype dtype, Device device,
             bool dense = true);

  Var forward(const Var& x, const Sequence& s) override;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;
  std::vector<NamedLinear> linears() override;
  bool is_fc2(const std::string& name) const override { return name == "mlp.down_proj"; }
  std::string attention_output_name() const override { return "self_attn.o_proj"; }
  std::vector<ScalingSite> scaling_sites() override;
  QueryKeyRows query_key_rows() override;

 protected:
  /// x + r o_proj(attention): what the feed-forward part reads behind its norm.
  Var middle(const Var& x, const Sequence& s) const;
  /// Attention of queries and keys as their norms left them.
  Var attended(const Var& q, const Var& k, const Var& v, const Sequence& s) const;

  ModelConfig config_;
  const Rope* rope_;  // owned by the model, shared by all blocks
  bool turns_;
  RmsNorm input_norm_, post_norm_, q_norm_, k_norm_;
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

/// q, times what makes attend's 1 / sqrt(head_dim) the config's "attention_multiplier".
Var scaled_queries(const Var& q, const ModelConfig& config);

class LlamaModel : public Transformer {
 public:
  LlamaModel(const ModelConfig& c, Dtype dtype, Device device);

  Var embed(const Tensor& ids, const Sequence& s) override;
  Var head(const Var& hidden) override;
  void untie_head() override;
  ResidualEnds residual_ends() override;
  std::string block_prefix(int64_t i) const override;
  std::unique_ptr<Block> make_block() const override { return make_block_at(0); }
  std::unique_ptr<Block> make_block_at(int64_t i) const override;
  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override;
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override;

 protected:
  Rope rope_;
  Var embedding_, lm_head_;

 private:
  RmsNorm norm_;
};

}  // namespace cbq
