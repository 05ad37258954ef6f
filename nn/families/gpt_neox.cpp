// GPT-NeoX (Black et al. 2022), which Pythia is: LayerNorm, partial rotary embedding, fused
// queries, keys and values, GELU, biases.
//
//   a = dense(attention(query_key_value(n))),                n = input_layernorm(x)
//   x = x + a + dense_4h_to_h(gelu(dense_h_to_4h(m))),       m = post_attention_layernorm(x)
//
// With "use_parallel_residual": false the feed-forward part reads x + a. Rows of query_key_value
// are [head][query, key, value][head_dim].
#include <algorithm>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/family.h"
#include "nn/norm.h"
#include "nn/rope.h"

namespace cbq {
namespace {

class GptNeoxBlock : public Block {
 public:
  GptNeoxBlock(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        gelu_(c.hidden_act == "gelu" ? &ag::exact_gelu : &ag::gelu),
        input_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        post_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        qkv_(c.hidden_size, 3 * c.hidden_size, c.attention_bias, dtype, device),
        dense_(c.hidden_size, c.hidden_size, c.attention_bias, dtype, device),
        up_(c.hidden_size, c.intermediate_size, true, dtype, device),
        down_(c.intermediate_size, c.hidden_size, true, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const Var fused = qkv_.forward(input_norm_.deferred(x));
    const auto part = [&](int64_t which) {
      return ag::take_part(fused, 3, which, config_.head_dim);
    };
    const auto turned = [&](const Var& heads) {
      return rotate(heads, *rope_, s, config_.head_dim);
    };
    const Var attended =
        attend(turned(part(0)), turned(part(1)), part(2), s, config_.num_heads, config_.num_heads);
    const Var middle = ag::add(x, dense_.forward(attended));
    const Var& read = config_.parallel_residual ? x : middle;
    const Var hidden = up_.forward(post_norm_.deferred(read));
    return ag::add(middle, down_.forward(Deferred(gelu_, hidden)));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) {
      if (linear == &up_) post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {{"attention.query_key_value", &qkv_},
            {"attention.dense", &dense_},
            {"mlp.dense_h_to_4h", &up_},
            {"mlp.dense_4h_to_h", &down_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "mlp.dense_4h_to_h"; }
  std::string attention_output_name() const override { return "attention.dense"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"attention.query_key_value", {&dense_}};
    output.producer = &qkv_;
    output.head_dim = config_.head_dim;
    output.parts = 3;
    output.part = 2;
    ScalingSite down{"mlp.dense_h_to_4h", {&down_}};
    down.obstacle = "no factor passes GELU";
    down.row_writers = {&up_};
    return {behind_norm("input_layernorm", &qkv_, input_norm_), output,
            behind_norm("post_attention_layernorm", &up_, post_norm_), down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&qkv_, &qkv_, config_.num_heads, config_.num_heads, config_.head_dim};
    rows.parts = 3;
    rows.query_part = 0;
    rows.key_part = 1;
    rows.rotary = true;
    if (config_.rotary_dim() != config_.head_dim) {
      rows.obstacle = "the rotary embedding turns only a part of each head";
    }
    return rows;
  }

 private:
  static ScalingSite behind_norm(const std::string& name, Linear* consumer, LayerNorm& norm) {
    ScalingSite site{name, {consumer}};
    site.norm_weight = &norm.weight;
    site.norm_bias = &norm.bias;
    site.norm_equivalent = &norm.equivalent;
    return site;
  }

  ModelConfig config_;
  const Rope* rope_;  // owned by the model, shared by all blocks
  Deferred::OfOne gelu_;
  LayerNorm input_norm_, post_norm_;
  Linear qkv_, dense_, up_, down_;
};

class GptNeoxModel : public Transformer {
 public:
  GptNeoxModel(const ModelConfig& c, Dtype dtype, Device device)
      : Transformer(c, dtype, device),
        rope_(c.rope, c.rotary_dim(), device),
        embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
        final_norm_(c.hidden_size, c.norm_eps, true, dtype, device) {
    if (!c.tie_word_embeddings) head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check_sequence(ids, s);
    return ag::embedding(ids, embedding_);
  }

  Var head(const Var& hidden) override {
    return ag::linear(final_norm_.forward(hidden), config.tie_word_embeddings ? embedding_ : head_,
                      Var());
  }

  void untie_head() override {
    if (!config.tie_word_embeddings) return;
    head_ = Var(embedding_.value().clone());
    config.tie_word_embeddings = false;
  }
  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.centered = true;
    ends.embeddings = {&embedding_};
    ends.norm_weight = &final_norm_.weight;
    ends.norm_bias = &final_norm_.bias;
    ends.head = &head_;
    return ends;
  }

  std::string block_prefix(int64_t i) const override {
    return "gpt_neox.layers." + std::to_string(i) + ".";
  }

  std::unique_ptr<Block> make_block() const override {
    return std::make_unique<GptNeoxBlock>(config, &rope_, dtype_, device_);
  }

  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "gpt_neox.embed_in.weight", embedding_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    final_norm_.visit(prefix + "gpt_neox.final_layer_norm.", visitor);
    if (head_.defined()) visitor(prefix + "embed_out.weight", head_);
  }

 private:
  Rope rope_;
  Var embedding_;
  LayerNorm final_norm_;
  Var head_;
};

constexpr const char* rotary_share_key = "rotary_pct";
constexpr const char* theta_key = "rotary_emb_base";

class GptNeoxFamily : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"GPTNeoXForCausalLM"}; }
  std::string model_type() const override { return "gpt_neox"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<GptNeoxModel>(config, dtype, device);
  }

  std::string base_prefix() const override { return "gpt_neox."; }
  std::string embedding_name() const override { return "gpt_neox.embed_in.weight"; }
  std::string head_name() const override { return "embed_out.weight"; }
  bool ignores(const std::string& name) const override {
    return name.ends_with("rotary_emb.inv_freq") || name.ends_with("attention.bias") ||
           name.ends_with("attention.masked_bias");  // tables of old checkpoints
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.hidden_size = fields.required_size("hidden_size");
    c.intermediate_size = fields.required_size("intermediate_size");
    c.num_layers = fields.required_size("num_hidden_layers");
    c.num_heads = c.num_kv_heads = fields.required_size("num_attention_heads");
    c.head_dim = c.hidden_size / c.num_heads;
    c.max_position_embeddings = fields.size("max_position_embeddings", 2048);
    c.norm_eps = fields.number("layer_norm_eps", 1e-5);
    c.hidden_act = fields.text("hidden_act", "gelu");
    c.rope =
        read_partial_rope(fields, c.max_position_embeddings, 0.25, rotary_share_key, theta_key);
    c.attention_bias = fields.flag("attention_bias", true);
    c.parallel_residual = fields.flag("use_parallel_residual", true);
    c.bos_token_id = 0;
    c.eos_token_ids = {2};
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    json["hidden_size"] = c.hidden_size;
    json["intermediate_size"] = c.intermediate_size;
    json["num_hidden_layers"] = c.num_layers;
    json["num_attention_heads"] = c.num_heads;
    json["max_position_embeddings"] = c.max_position_embeddings;
    json["layer_norm_eps"] = c.norm_eps;
    json["hidden_act"] = c.hidden_act;
    write_partial_rope(json, c.rope, rotary_share_key, theta_key);
    json["attention_bias"] = c.attention_bias;
    json["use_parallel_residual"] = c.parallel_residual;
  }

  void validate(const ModelConfig& c) const override {
    check_heads_divide(c);
    const auto known = {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"};
    check(std::find(known.begin(), known.end(), c.hidden_act) != known.end(),
          "unknown \"hidden_act\" \"", c.hidden_act,
          "\"; known: gelu, gelu_new, gelu_fast, gelu_pytorch_tanh");
    check(c.num_kv_heads == c.num_heads && c.head_dim * c.num_heads == c.hidden_size,
          "GPT-NeoX's heads share nothing and divide \"hidden_size\" (", c.hidden_size, "), got ",
          c.num_heads, " heads of ", c.head_dim, ", ", c.num_kv_heads, " for keys");
    check(c.norm_eps >= 0, "\"layer_norm_eps\" (", c.norm_eps, ") must not be negative");
    check_rope(c.rope, c.rotary_dim());
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<GptNeoxFamily>());

}  // namespace
}  // namespace cbq
