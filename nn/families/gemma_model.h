// The blocks and the model of Gemma 2 and Gemma 3: LLaMA's linears between four norms.
#pragma once

#include "nn/families/llama_model.h"

namespace cbq {

/// RMSNorm with the gain 1 + weight.
class CenteredNorm {
 public:
  CenteredNorm() = default;
  /// Allocated, not initialized.
  CenteredNorm(int64_t width, double eps, Dtype dtype, Device device)
      : norm_(width, eps, dtype, device) {}
  Deferred deferred(const Var& x) const;
  Var forward(const Var& x) const { return deferred(x).value(); }
  /// For every part of the norm's width by itself.
  Var forward_parts(const Var& x) const;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) {
    norm_.visit(prefix, visitor);
  }

 private:
  RmsNorm norm_;
};

/// The options of ModelConfig: biases of attention, norms of queries and keys, the soft cap of
/// scores.
class GemmaBlock : public Block {
 public:
  /// `rope` outlives the block.
  GemmaBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device);

  Var forward(const Var& x, const Sequence& s) override;
  void visit(const std::string& prefix, const ParameterVisitor& visitor) override;
  std::vector<NamedLinear> linears() override;
  bool is_fc2(const std::string& name) const override { return name == "mlp.down_proj"; }
  std::string attention_output_name() const override { return "self_attn.o_proj"; }
  std::vector<ScalingSite> scaling_sites() override;
  QueryKeyRows query_key_rows() override;

 private:
  ModelConfig config_;
  const Rope* rope_;  // owned by the model
  CenteredNorm input_norm_, attention_norm_, middle_norm_, feed_forward_norm_;
  CenteredNorm q_norm_, k_norm_;  // without parameters where there are none
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

class GemmaModel : public LlamaModel {
 public:
  GemmaModel(const ModelConfig& c, Dtype dtype, Device device);

  Var embed(const Tensor& ids, const Sequence& s) override;
  Var head(const Var& hidden) override;
  ResidualEnds residual_ends() override;
  std::unique_ptr<Block> make_block_at(int64_t i) const override;
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override;

 private:
  Rope local_rope_;  // of the layers within the sliding window
  CenteredNorm final_norm_;
};

}  // namespace cbq
