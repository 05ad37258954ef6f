// LLaMA (Touvron et al. 2023): RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
//
//   x = x + o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n))),  n = input_layernorm(x)
//   x = x + down_proj(silu(gate_proj(m)) * up_proj(m)),    m = post_attention_layernorm(x)
//
// Biases and norms of queries and keys are options, by which other architectures differ.
#include "nn/families/llama.h"

#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/norm.h"
#include "nn/rope.h"

namespace cbq {
namespace {

class LlamaBlock : public Block {
 public:
  LlamaBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        input_norm_(c.hidden_size, c.norm_eps, dtype, device),
        post_norm_(c.hidden_size, c.norm_eps, dtype, device),
        q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
        k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        o_(c.num_heads * c.head_dim, c.hidden_size, c.attention_output_bias, dtype, device),
        gate_(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device),
        up_(c.hidden_size, c.intermediate_size, c.mlp_bias, dtype, device),
        down_(c.intermediate_size, c.hidden_size, c.mlp_bias, dtype, device) {
    if (!c.qk_norm) return;
    q_norm_ = RmsNorm(c.head_dim, c.norm_eps, dtype, device);
    k_norm_ = RmsNorm(c.head_dim, c.norm_eps, dtype, device);
  }

  Var forward(const Var& x, const Sequence& s) override {
    const auto rotated = [&](const Var& heads, const RmsNorm& norm) {
      const Var normed = config_.qk_norm ? norm.forward_parts(heads) : heads;
      return rotate(normed, *rope_, s, config_.head_dim);
    };
    auto [q, k, v] = forward_each({&q_, &k_, &v_}, input_norm_.deferred(x));
    q = rotated(q, q_norm_);
    k = rotated(k, k_norm_);
    const Var attended = attend(q, k, v, s, config_.num_heads, config_.num_kv_heads);
    const Var middle = ag::add(x, o_.forward(attended));
    const auto [gate, up] = forward_each({&gate_, &up_}, post_norm_.deferred(middle));
    return ag::add(middle, down_.forward(Deferred(&ag::swiglu, gate, up)));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) {
      if (name == "mlp.gate_proj") post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
    if (!config_.qk_norm) return;
    q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
    k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
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
    attention.norm_weight = &input_norm_.weight;
    attention.norm_equivalent = &input_norm_.equivalent;
    ScalingSite output{"self_attn.v_proj", {&o_}};
    output.producer = &v_;
    output.head_group = config_.num_heads / config_.num_kv_heads;
    output.head_dim = config_.head_dim;
    ScalingSite mlp{"post_attention_layernorm", {&gate_, &up_}};
    mlp.norm_weight = &post_norm_.weight;
    mlp.norm_equivalent = &post_norm_.equivalent;
    ScalingSite down{"mlp.up_proj", {&down_}};
    down.producer = &up_;
    down.row_writers = {&gate_, &up_};
    return {attention, output, mlp, down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&q_, &k_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
    rows.rotary = true;
    if (config_.qk_norm) rows.obstacle = "norms of queries and keys undo every factor";
    return rows;
  }

 private:
  ModelConfig config_;
  const Rope* rope_;  // owned by the model, shared by all blocks
  RmsNorm input_norm_, post_norm_, q_norm_, k_norm_;
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

class LlamaModel : public Transformer {
 public:
  LlamaModel(const ModelConfig& c, Dtype dtype, Device device)
      : Transformer(c, dtype, device),
        rope_(c.rope, c.head_dim, device),
        embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
        norm_(c.hidden_size, c.norm_eps, dtype, device) {
    if (!c.tie_word_embeddings)
      lm_head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check_sequence(ids, s);
    return ag::embedding(ids, embedding_);
  }

  Var head(const Var& hidden) override {
    return ag::linear(norm_.forward(hidden), config.tie_word_embeddings ? embedding_ : lm_head_,
                      Var());
  }

  void untie_head() override {
    if (!config.tie_word_embeddings) return;
    lm_head_ = Var(embedding_.value().clone());
    config.tie_word_embeddings = false;
  }
  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.embeddings = {&embedding_};
    ends.norm_weight = &norm_.weight;
    ends.head = &lm_head_;
    return ends;
  }

  std::string block_prefix(int64_t i) const override {
    return "model.layers." + std::to_string(i) + ".";
  }

  std::unique_ptr<Block> make_block() const override {
    return std::make_unique<LlamaBlock>(config, &rope_, dtype_, device_);
  }

  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "model.embed_tokens.weight", embedding_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    norm_.visit(prefix + "model.norm.", visitor);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  Rope rope_;
  Var embedding_;
  RmsNorm norm_;
  Var lm_head_;
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<LlamaFamily>());

}  // namespace

std::unique_ptr<Transformer> LlamaFamily::make(const ModelConfig& config, Dtype dtype,
                                               Device device) const {
  return std::make_unique<LlamaModel>(config, dtype, device);
}

bool LlamaFamily::ignores(const std::string& name) const {
  return name.ends_with("rotary_emb.inv_freq");  // old checkpoints carry the rotary frequencies
}

void LlamaFamily::read_shared(const ConfigFields& fields, ModelConfig& c) const {
  c.hidden_size = fields.required_size("hidden_size");
  c.intermediate_size = fields.required_size("intermediate_size");
  c.num_layers = fields.required_size("num_hidden_layers");
  c.num_heads = fields.required_size("num_attention_heads");
  const bool unsaid = default_kv_heads() > 0 && !fields.contains("num_key_value_heads");
  c.num_kv_heads = fields.size("num_key_value_heads", unsaid ? default_kv_heads() : c.num_heads);
  const bool has_default = default_head_dim() > 0 && !fields.contains("head_dim");
  if (!has_default && !fields.has("head_dim")) {
    try {
      check_heads_divide(c);
    } catch (const std::invalid_argument& error) {
      fail(fields.what(), ": ", error.what());
    }
  }
  c.head_dim =
      fields.size("head_dim", has_default ? default_head_dim() : c.hidden_size / c.num_heads);
  c.max_position_embeddings = fields.size("max_position_embeddings", c.max_position_embeddings);
  c.norm_eps = fields.number("rms_norm_eps", c.norm_eps);
  c.hidden_act = fields.text("hidden_act", c.hidden_act);
  c.rope = read_rope(fields, c.max_position_embeddings);
}

void LlamaFamily::read_config(const ConfigFields& fields, ModelConfig& c) const {
  read_shared(fields, c);
  c.attention_bias = fields.flag("attention_bias", c.attention_bias);
  c.attention_output_bias = c.attention_bias;
  c.mlp_bias = fields.flag("mlp_bias", c.mlp_bias);
}

void LlamaFamily::write_shared(const ModelConfig& c, nlohmann::json& json) const {
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_layers;
  json["num_attention_heads"] = c.num_heads;
  json["num_key_value_heads"] = c.num_kv_heads;
  json["head_dim"] = c.head_dim;
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["rms_norm_eps"] = c.norm_eps;
  json["hidden_act"] = c.hidden_act;
  write_rope(json, c.rope);
}

void LlamaFamily::write_config(const ModelConfig& c, nlohmann::json& json) const {
  write_shared(c, json);
  json["attention_bias"] = c.attention_bias;
  json["mlp_bias"] = c.mlp_bias;
}

void LlamaFamily::validate(const ModelConfig& c) const {
  if (!has_free_head_dim()) check_heads_divide(c);
  check(c.head_dim > 0 && c.head_dim % 2 == 0, "\"head_dim\" (", c.head_dim,
        ") must be even for rotary embedding");
  check(c.hidden_act == "silu" || c.hidden_act == "swish", "unknown \"hidden_act\" \"",
        c.hidden_act, "\"; known: silu");
  check(c.norm_eps >= 0, "\"rms_norm_eps\" (", c.norm_eps, ") must not be negative");
  check_rope(c.rope, c.head_dim);
}

}  // namespace cbq
