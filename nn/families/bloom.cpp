// BLOOM (Le Scao et al. 2022): ALiBi, fused queries, keys and values, LayerNorm, GELU, biases.
//
//   n = input_layernorm(x);            a = dense(attention(query_key_value(n))) + (x or n)
//   m = post_attention_layernorm(a);   x = dense_4h_to_h(gelu(dense_h_to_4h(m))) + (a or m)
//
// The residual connections start at x and a, or, with apply_residual_connection_post_layernorm,
// behind the norms. Rows of query_key_value are [head][query, key, value][head_dim].
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/alibi.h"
#include "nn/families/family.h"
#include "nn/norm.h"

namespace cbq {
namespace {

class BloomBlock : public Block {
 public:
  BloomBlock(const ModelConfig& c, Tensor slopes, Dtype dtype, Device device)
      : config_(c),
        slopes_(std::move(slopes)),
        input_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        post_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        qkv_(c.hidden_size, 3 * c.hidden_size, true, dtype, device),
        dense_(c.hidden_size, c.hidden_size, true, dtype, device),
        up_(c.hidden_size, c.intermediate_size, true, dtype, device),
        down_(c.intermediate_size, c.hidden_size, true, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    // A norm's output that is the residual stream as well is computed by itself.
    const auto normed = [&](const LayerNorm& norm, const Var& h) {
      return config_.residual_after_norm ? norm.deferred(h).computed() : norm.deferred(h);
    };
    const Deferred n = normed(input_norm_, x);
    const Var fused = qkv_.forward(n);
    const auto part = [&](int64_t which) {
      return ag::take_part(fused, 3, which, config_.head_dim);
    };
    const Var attended =
        attend(part(0), part(1), part(2), s, config_.num_heads, config_.num_heads, slopes_);
    const Var a = ag::add(dense_.forward(attended), config_.residual_after_norm ? n.value() : x);
    const Deferred m = normed(post_norm_, a);
    return ag::add(down_.forward(Deferred(&ag::gelu, up_.forward(m))),
                   config_.residual_after_norm ? m.value() : a);
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) {
      if (linear == &up_) post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {{"self_attention.query_key_value", &qkv_},
            {"self_attention.dense", &dense_},
            {"mlp.dense_h_to_4h", &up_},
            {"mlp.dense_4h_to_h", &down_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "mlp.dense_4h_to_h"; }
  std::string attention_output_name() const override { return "self_attention.dense"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"self_attention.query_key_value", {&dense_}};
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
    return rows;
  }

 private:
  ScalingSite behind_norm(const std::string& name, Linear* consumer, LayerNorm& norm) const {
    ScalingSite site{name, {consumer}};
    site.norm_weight = &norm.weight;
    site.norm_bias = &norm.bias;
    site.norm_equivalent = &norm.equivalent;
    if (config_.residual_after_norm) site.obstacle = "the norm's output is also the residual";
    return site;
  }

  ModelConfig config_;
  Tensor slopes_;
  LayerNorm input_norm_, post_norm_;
  Linear qkv_, dense_, up_, down_;
};

class BloomModel : public Transformer {
 public:
  BloomModel(const ModelConfig& c, Dtype dtype, Device device)
      : Transformer(c, dtype, device),
        slopes_(alibi_slopes(c.num_heads, device)),
        embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
        embedding_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        final_norm_(c.hidden_size, c.norm_eps, true, dtype, device) {
    if (!c.tie_word_embeddings) {
      lm_head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
    }
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check_sequence(ids, s);
    return embedding_norm_.forward(ag::embedding(ids, embedding_));
  }

  Var head(const Var& hidden) override {
    return ag::linear(final_norm_.forward(hidden),
                      config.tie_word_embeddings ? embedding_ : lm_head_, Var());
  }

  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.obstacle =
        "the residual stream starts behind a norm of the embedding, whose gain cannot be moved "
        "past a rotation";
    return ends;
  }

  std::string block_prefix(int64_t i) const override {
    return "transformer.h." + std::to_string(i) + ".";
  }

  std::unique_ptr<Block> make_block() const override {
    return std::make_unique<BloomBlock>(config, slopes_, dtype_, device_);
  }

  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "transformer.word_embeddings.weight", embedding_);
    embedding_norm_.visit(prefix + "transformer.word_embeddings_layernorm.", visitor);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    final_norm_.visit(prefix + "transformer.ln_f.", visitor);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  Tensor slopes_;  // ALiBi's, shared by all blocks
  Var embedding_;
  LayerNorm embedding_norm_, final_norm_;
  Var lm_head_;
};

class BloomFamily : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"BloomForCausalLM"}; }
  std::string model_type() const override { return "bloom"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<BloomModel>(config, dtype, device);
  }

  std::string base_prefix() const override { return "transformer."; }
  std::string embedding_name() const override { return "transformer.word_embeddings.weight"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.hidden_size = fields.required_size({"n_embed", "hidden_size"});
    c.intermediate_size = 4 * c.hidden_size;
    c.num_layers = fields.required_size({"num_hidden_layers", "n_layer"});
    c.num_heads = fields.required_size({"num_attention_heads", "n_head"});
    c.num_kv_heads = c.num_heads;
    c.head_dim = c.hidden_size / c.num_heads;
    c.max_position_embeddings = fields.size("seq_length", 2048);
    c.norm_eps = fields.number("layer_norm_epsilon", 1e-5);
    c.hidden_act = "gelu";
    c.residual_after_norm = fields.flag("apply_residual_connection_post_layernorm", false);
    c.tie_word_embeddings = true;
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_field(json, {"hidden_size", "n_embed"}, c.hidden_size);
    write_field(json, {"n_layer", "num_hidden_layers"}, c.num_layers);
    write_field(json, {"n_head", "num_attention_heads"}, c.num_heads);
    json["seq_length"] = c.max_position_embeddings;
    json["layer_norm_epsilon"] = c.norm_eps;
    json["apply_residual_connection_post_layernorm"] = c.residual_after_norm;
  }

  void validate(const ModelConfig& c) const override {
    check_heads_divide(c);
    check(c.intermediate_size == 4 * c.hidden_size, "BLOOM's feed-forward part is 4 times \"",
          "hidden_size\" (", c.hidden_size, ") wide, got ", c.intermediate_size);
    check(c.num_kv_heads == c.num_heads && c.head_dim * c.num_heads == c.hidden_size,
          "BLOOM's heads share nothing and divide \"hidden_size\" (", c.hidden_size, "), got ",
          c.num_heads, " heads of ", c.head_dim, ", ", c.num_kv_heads, " for keys");
    check(c.norm_eps >= 0, "\"layer_norm_epsilon\" (", c.norm_eps, ") must not be negative");
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<BloomFamily>());

}  // namespace
}  // namespace cbq
