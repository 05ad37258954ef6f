// OLMo 2 (OLMo et al. 2024): LLaMA's linears, with norms behind the sublayers and none before them.
//
//   x = x + post_attention_layernorm(o_proj(attention(q, k, v_proj(x)))),
//       q = rope(q_norm(q_proj(x))),  k = rope(k_norm(k_proj(x)))
//   x = x + post_feedforward_layernorm(down_proj(silu(gate_proj(x)) * up_proj(x)))
//
// q_norm and k_norm are RMSNorms over all heads together.
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/llama.h"
#include "nn/families/llama_model.h"

namespace cbq {
namespace {

constexpr const char* no_norm = "the residual stream itself is read, no norm stands in front";

class Olmo2Block : public LlamaBlock {
 public:
  Olmo2Block(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : LlamaBlock(c, rope, true, dtype, device) {
    q_norm_ = RmsNorm(c.num_heads * c.head_dim, c.norm_eps, dtype, device);
    k_norm_ = RmsNorm(c.num_kv_heads * c.head_dim, c.norm_eps, dtype, device);
  }

  Var forward(const Var& x, const Sequence& s) override {
    const auto [q, k, v] = forward_each({&q_, &k_, &v_}, Deferred(x));
    const Var attention = o_.forward(attended(q_norm_.forward(q), k_norm_.forward(k), v, s));
    const Var middle = ag::add(x, attention_norm().forward(attention));
    const auto [gate, up] = forward_each({&gate_, &up_}, Deferred(middle));
    const Var fed = down_.forward(Deferred(&ag::swiglu, gate, up));
    return ag::add(middle, feed_forward_norm().forward(fed));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    for (auto& [name, linear] : linears()) linear->visit(prefix + name + ".", visitor);
    q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
    k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
    attention_norm().visit(prefix + "post_attention_layernorm.", visitor);
    feed_forward_norm().visit(prefix + "post_feedforward_layernorm.", visitor);
  }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite attention{"input", {&q_, &k_, &v_}}, mlp{"middle", {&gate_, &up_}};
    attention.obstacle = mlp.obstacle = no_norm;
    const std::vector<ScalingSite> shared = LlamaBlock::scaling_sites();
    return {attention, shared[1], mlp, shared[3]};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows = LlamaBlock::query_key_rows();
    rows.obstacle = "norms of queries and keys undo every factor";
    return rows;
  }

 private:
  /// The base's two norms, which stand elsewhere here.
  RmsNorm& attention_norm() { return input_norm_; }
  RmsNorm& feed_forward_norm() { return post_norm_; }
};

class Olmo2Model : public LlamaModel {
 public:
  using LlamaModel::LlamaModel;
  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.obstacle = "norms behind attention and feed-forward part write the residual stream";
    return ends;
  }
  std::unique_ptr<Block> make_block_at(int64_t /*i*/) const override {
    return std::make_unique<Olmo2Block>(config, &rope_, dtype_, device_);
  }
};

class Olmo2Family : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Olmo2ForCausalLM"}; }
  std::string model_type() const override { return "olmo2"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<Olmo2Model>(config, dtype, device);
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.norm_eps = 1e-5;
    c.bos_token_id = -1;
    c.eos_token_ids = {50279};
    read_shared(fields, c);
    c.attention_bias = c.attention_output_bias = fields.flag("attention_bias", false);
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_shared(c, json);
    json["attention_bias"] = c.attention_bias;
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Olmo2Family>());

}  // namespace
}  // namespace cbq
