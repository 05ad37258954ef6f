// LLaMA (Touvron et al. 2023): RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
//
//   x = x + o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n))),  n = input_layernorm(x)
//   x = x + down_proj(silu(gate_proj(m)) * up_proj(m)),                      m =
//   post_attention_layernorm(x)
#include "autograd/functions.h"
#include "nn/families/family.h"
#include "nn/rope.h"

namespace cbq {
namespace {

class LlamaBlock : public Block {
 public:
  LlamaBlock(const ModelConfig& c, const RopeTables* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        input_norm_(Tensor({c.hidden_size}, dtype, device)),
        post_norm_(Tensor({c.hidden_size}, dtype, device)),
        q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
        k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        o_(c.num_heads * c.head_dim, c.hidden_size, c.attention_bias, dtype, device),
        gate_(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device),
        up_(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device),
        down_(c.intermediate_size, c.hidden_size, c.mlp_bias, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const Var n = ag::rms_norm(x, input_norm_, config_.rms_norm_eps);
    const auto rotate = [&](const Var& heads) {
      return ag::rope(heads, rope_->cosine, rope_->sine, s.tokens, config_.head_dim);
    };
    const auto operand = [&](const Var& heads) {
      return attention_transform ? attention_transform->operand(heads, config_.head_dim) : heads;
    };
    const Var attended =
        ag::attention(operand(rotate(q_.forward(n))), operand(rotate(k_.forward(n))),
                      operand(v_.forward(n)), s.batch, config_.num_heads, config_.num_kv_heads);
    const Var middle = ag::add(x, o_.forward(attended));
    const Var m = ag::rms_norm(middle, post_norm_, config_.rms_norm_eps);
    return ag::add(middle, down_.forward(ag::swiglu(gate_.forward(m), up_.forward(m))));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "input_layernorm.weight", input_norm_);
    for (auto& [name, linear] : linears()) {
      if (name == "mlp.gate_proj") visitor(prefix + "post_attention_layernorm.weight", post_norm_);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {{"self_attn.q_proj", &q_}, {"self_attn.k_proj", &k_}, {"self_attn.v_proj", &v_},
            {"self_attn.o_proj", &o_}, {"mlp.gate_proj", &gate_}, {"mlp.up_proj", &up_},
            {"mlp.down_proj", &down_}};
  }
  std::string fc2_name() const override { return "mlp.down_proj"; }
  std::string attention_output_name() const override { return "self_attn.o_proj"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite attention{"input_layernorm", {&q_, &k_, &v_}};
    attention.norm_weight = &input_norm_;
    ScalingSite output{"self_attn.v_proj", {&o_}};
    output.producer = &v_;
    output.head_group = config_.num_heads / config_.num_kv_heads;
    output.head_dim = config_.head_dim;
    ScalingSite mlp{"post_attention_layernorm", {&gate_, &up_}};
    mlp.norm_weight = &post_norm_;
    ScalingSite down{"mlp.up_proj", {&down_}};
    down.producer = &up_;
    return {attention, output, mlp, down};
  }

 private:
  ModelConfig config_;
  const RopeTables* rope_;  // owned by the model, shared by all blocks
  Var input_norm_, post_norm_;
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

class LlamaModel : public Transformer {
 public:
  LlamaModel(const ModelConfig& c, Dtype dtype, Device device)
      : Transformer(c),
        rope_(rope_tables(c.rope, c.head_dim, c.max_position_embeddings, device)),
        embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
        norm_(Tensor({c.hidden_size}, dtype, device)) {
    dtype_ = dtype;
    device_ = device;
    for (int64_t i = 0; i < c.num_layers; ++i) {
      blocks.push_back(std::make_unique<LlamaBlock>(config, &rope_, dtype, device));
    }
    if (!c.tie_word_embeddings)
      lm_head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check(ids.count() == s.batch * s.tokens, "embed: ", ids.count(), " ids for ", s.batch, " x ",
          s.tokens, " tokens");
    check(s.tokens <= config.max_position_embeddings, "a sequence of ", s.tokens,
          " tokens exceeds the model's context of ", config.max_position_embeddings,
          "; use shorter segments (--segment-length)");
    return ag::embedding(ids, embedding_);
  }

  Var head(const Var& hidden) override {
    const Var n = ag::rms_norm(hidden, norm_, config.rms_norm_eps);
    return ag::linear(n, config.tie_word_embeddings ? embedding_ : lm_head_, Var());
  }

  std::string block_prefix(int64_t i) const override {
    return "model.layers." + std::to_string(i) + ".";
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "model.embed_tokens.weight", embedding_);
    for (int64_t i = 0; i < block_count(); ++i) {
      blocks[static_cast<size_t>(i)]->visit(prefix + block_prefix(i), visitor);
    }
    visitor(prefix + "model.norm.weight", norm_);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  RopeTables rope_;
  Var embedding_, norm_, lm_head_;
};

class LlamaFamily : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"LlamaForCausalLM"}; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<LlamaModel>(config, dtype, device);
  }
  bool ignores(const ModelConfig& config, const std::string& name) const override {
    // Old checkpoints carry the rotary frequencies; some carry a tied head twice.
    return name.ends_with("rotary_emb.inv_freq") ||
           (config.tie_word_embeddings && name == "lm_head.weight");
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<LlamaFamily>());

}  // namespace
}  // namespace cbq
