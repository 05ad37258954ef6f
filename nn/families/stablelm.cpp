// StableLM (Bellagente et al. 2024): LLaMA's linears behind LayerNorms; a part of each head turns.
//
//   a = o_proj(attention(rope(q_proj(n)), rope(k_proj(n)), v_proj(n))),    n = input_layernorm(x)
//   x = x + a + down_proj(silu(gate_proj(m)) * up_proj(m)),
//       m = post_attention_layernorm(x + a), or n with "use_parallel_residual"
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/llama.h"
#include "nn/families/llama_model.h"

namespace cbq {
namespace {

class StableLmBlock : public Block {
 public:
  StableLmBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        input_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
        k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        o_(c.num_heads * c.head_dim, c.hidden_size, false, dtype, device),
        gate_(c.hidden_size, c.intermediate_size, false, dtype, device),
        up_(c.hidden_size, c.intermediate_size, false, dtype, device),
        down_(c.intermediate_size, c.hidden_size, false, dtype, device) {
    if (!c.parallel_residual) {
      post_norm_ = LayerNorm(c.hidden_size, c.norm_eps, true, dtype, device);
    }
  }

  Var forward(const Var& x, const Sequence& s) override {
    const Deferred n = input_norm_.deferred(x);
    if (config_.parallel_residual) {
      const auto [q, k, v, gate, up] = forward_each({&q_, &k_, &v_, &gate_, &up_}, n);
      return ag::add(ag::add(x, attention(q, k, v, s)), fed(gate, up));
    }
    const auto [q, k, v] = forward_each({&q_, &k_, &v_}, n);
    const Var middle = ag::add(x, attention(q, k, v, s));
    const auto [gate, up] = forward_each({&gate_, &up_}, post_norm_.deferred(middle));
    return ag::add(middle, fed(gate, up));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) {
      if (linear == &gate_) post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {{"self_attn.q_proj", &q_}, {"self_attn.k_proj", &k_}, {"self_attn.v_proj", &v_},
            {"self_attn.o_proj", &o_}, {"mlp.gate_proj", &gate_}, {"mlp.up_proj", &up_},
            {"mlp.down_proj", &down_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "mlp.down_proj"; }
  std::string attention_output_name() const override { return "self_attn.o_proj"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"self_attn.v_proj", {&o_}};
    output.producer = &v_;
    output.head_group = config_.num_heads / config_.num_kv_heads;
    output.head_dim = config_.head_dim;
    ScalingSite down{"mlp.up_proj", {&down_}};
    down.producer = &up_;
    down.row_writers = {&gate_, &up_};
    if (config_.parallel_residual) {
      return {behind_norm("input_layernorm", {&q_, &k_, &v_, &gate_, &up_}, input_norm_), output,
              down};
    }
    return {behind_norm("input_layernorm", {&q_, &k_, &v_}, input_norm_), output,
            behind_norm("post_attention_layernorm", {&gate_, &up_}, post_norm_), down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&q_, &k_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
    rows.rotary = true;
    if (config_.rotary_dim() != config_.head_dim) {
      rows.obstacle = "the rotary embedding turns only a part of each head";
    }
    return rows;
  }

 private:
  Var attention(const Var& q, const Var& k, const Var& v, const Sequence& s) const {
    const auto turned = [&](const Var& heads) {
      return rotate(heads, *rope_, s, config_.head_dim);
    };
    return o_.forward(attend(turned(q), turned(k), v, s, config_.num_heads, config_.num_kv_heads));
  }
  Var fed(const Var& gate, const Var& up) const {
    return down_.forward(Deferred(&ag::swiglu, gate, up));
  }
  static ScalingSite behind_norm(const std::string& name, std::vector<Linear*> consumers,
                                 LayerNorm& norm) {
    ScalingSite site{name, std::move(consumers)};
    site.norm_weight = &norm.weight;
    site.norm_bias = &norm.bias;
    site.norm_equivalent = &norm.equivalent;
    return site;
  }

  ModelConfig config_;
  const Rope* rope_;                  // owned by the model, shared by all blocks
  LayerNorm input_norm_, post_norm_;  // the second without parameters where there is none
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

class StableLmModel : public LlamaModel {
 public:
  StableLmModel(const ModelConfig& c, Dtype dtype, Device device)
      : LlamaModel(c, dtype, device), final_norm_(c.hidden_size, c.norm_eps, true, dtype, device) {}

  Var head(const Var& hidden) override {
    const Var& matrix = config.tie_word_embeddings ? embedding_ : lm_head_;
    return ag::linear(final_norm_.forward(hidden), matrix, Var());
  }
  ResidualEnds residual_ends() override {
    ResidualEnds ends = LlamaModel::residual_ends();
    ends.centered = true;
    ends.norm_weight = &final_norm_.weight;
    ends.norm_bias = &final_norm_.bias;
    return ends;
  }
  std::unique_ptr<Block> make_block_at(int64_t /*i*/) const override {
    return std::make_unique<StableLmBlock>(config, &rope_, dtype_, device_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    final_norm_.visit(prefix + "model.norm.", visitor);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  LayerNorm final_norm_;
};

constexpr const char* turning_share_key = "partial_rotary_factor";

class StableLmFamily : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"StableLmForCausalLM"}; }
  std::string model_type() const override { return "stablelm"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<StableLmModel>(config, dtype, device);
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 4096;
    c.bos_token_id = 0;
    c.eos_token_ids = {0};
    read_sizes(fields, c);
    c.norm_eps = fields.number("layer_norm_eps", 1e-5);
    c.rope =
        read_partial_rope(fields, c.max_position_embeddings, 0.25, turning_share_key, "rope_theta");
    c.attention_bias = fields.flag("use_qkv_bias", false);
    c.parallel_residual = fields.flag("use_parallel_residual", false);
    if (fields.flag("qk_layernorm", false)) {
      fail(fields.what(), ": \"qk_layernorm\" (a norm for each head of queries and keys, as in ",
           "StableLM 2 12B) is not implemented");
    }
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_sizes(c, json);
    json.erase("rms_norm_eps");
    json["layer_norm_eps"] = c.norm_eps;
    write_partial_rope(json, c.rope, turning_share_key, "rope_theta");
    json["use_qkv_bias"] = c.attention_bias;
    json["use_parallel_residual"] = c.parallel_residual;
  }
  void validate(const ModelConfig& c) const override {
    check(c.norm_eps >= 0, "\"layer_norm_eps\" (", c.norm_eps, ") must not be negative");
    LlamaFamily::validate(c);
  }

 protected:
  int64_t default_kv_heads() const override { return 32; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<StableLmFamily>());

}  // namespace
}  // namespace cbq
