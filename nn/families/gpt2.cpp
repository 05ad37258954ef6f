// GPT-2 (Radford et al. 2019): learned positions, LayerNorm, fused queries, keys and values, GELU,
// biases, a tied head.
//
//   [q k v] = c_attn(ln_1(x));   a = x + c_proj(attention(q, k, v))
//   x = a + mlp.c_proj(gelu(mlp.c_fc(ln_2(a))))
//
// The parts of c_attn lie one behind the other. Folders hold the matrices of the blocks transposed,
// [in, out] (transformers' Conv1D); here they are [out, in] as in all families. Scores are q k^T
// / sqrt(head_dim), without the root if "scale_attn_weights" is false, and divided by i + 1 in
// block i with "scale_attn_by_inverse_layer_idx".
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/family.h"
#include "nn/families/llama_model.h"
#include "nn/norm.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

/// Names of "activation_function"; null: not known.
Deferred::OfOne function_of(const std::string& name) {
  if (name == "relu") return &ag::relu;
  if (name == "gelu") return &ag::exact_gelu;
  const auto tanh_forms = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"};
  const bool known = std::find(tanh_forms.begin(), tanh_forms.end(), name) != tanh_forms.end();
  return known ? &ag::gelu : nullptr;
}

class Gpt2Block : public Block {
 public:
  Gpt2Block(const ModelConfig& c, Dtype dtype, Device device)
      : config_(c),
        activation_(function_of(c.hidden_act)),
        attention_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        mlp_norm_(c.hidden_size, c.norm_eps, true, dtype, device),
        qkv_(c.hidden_size, 3 * c.hidden_size, true, dtype, device),
        out_(c.hidden_size, c.hidden_size, true, dtype, device),
        up_(c.hidden_size, c.intermediate_size, true, dtype, device),
        down_(c.intermediate_size, c.hidden_size, true, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const Var fused = qkv_.forward(attention_norm_.deferred(x));
    const auto part = [&](int64_t which) {
      return ag::take_columns(fused, which * config_.hidden_size, config_.hidden_size);
    };
    const Var attended = attend(scaled_queries(part(0), config_), part(1), part(2), s,
                                config_.num_heads, config_.num_heads);
    const Var middle = ag::add(x, out_.forward(attended));
    const Var hidden = up_.forward(mlp_norm_.deferred(middle));
    return ag::add(middle, down_.forward(Deferred(activation_, hidden)));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    attention_norm_.visit(prefix + "ln_1.", visitor);
    for (auto& [name, linear] : linears()) {
      if (linear == &up_) mlp_norm_.visit(prefix + "ln_2.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {
        {"attn.c_attn", &qkv_}, {"attn.c_proj", &out_}, {"mlp.c_fc", &up_}, {"mlp.c_proj", &down_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "mlp.c_proj"; }
  std::string attention_output_name() const override { return "attn.c_proj"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"attn.c_attn", {&out_}};
    output.producer = &qkv_;
    output.first_row = 2 * config_.hidden_size;
    output.head_dim = config_.head_dim;
    ScalingSite down{"mlp.c_fc", {&down_}};
    if (config_.hidden_act == "relu") {
      down.producer = &up_;
      down.positive_only = true;
    } else {
      down.obstacle = "no factor passes GELU";
      down.row_writers = {&up_};
    }
    return {behind_norm("ln_1", &qkv_, attention_norm_), output,
            behind_norm("ln_2", &up_, mlp_norm_), down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&qkv_, &qkv_, config_.num_heads, config_.num_heads, config_.head_dim};
    rows.first_key_row = config_.hidden_size;
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
  Deferred::OfOne activation_;
  LayerNorm attention_norm_, mlp_norm_;
  Linear qkv_, out_, up_, down_;
};

class Gpt2Model : public Transformer {
 public:
  Gpt2Model(const ModelConfig& c, Dtype dtype, Device device)
      : Transformer(c, dtype, device),
        embedding_(Tensor({c.vocab_size, c.hidden_size}, dtype, device)),
        positions_(Tensor({c.max_position_embeddings, c.hidden_size}, dtype, device)),
        final_norm_(c.hidden_size, c.norm_eps, true, dtype, device) {
    if (!c.tie_word_embeddings) head_ = Var(Tensor({c.vocab_size, c.hidden_size}, dtype, device));
  }

  Var embed(const Tensor& ids, const Sequence& s) override {
    check_sequence(ids, s);
    const Tensor at = Tensor::from(positions_of(s), {s.batch * s.tokens}, Dtype::i32, device_);
    return ag::add(ag::embedding(ids, embedding_), ag::embedding(at, positions_));
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
    ends.embeddings = {&embedding_, &positions_};
    ends.norm_weight = &final_norm_.weight;
    ends.norm_bias = &final_norm_.bias;
    ends.head = &head_;
    return ends;
  }

  std::string block_prefix(int64_t i) const override {
    return "transformer.h." + std::to_string(i) + ".";
  }
  std::unique_ptr<Block> make_block() const override {
    return std::make_unique<Gpt2Block>(config, dtype_, device_);
  }
  std::unique_ptr<Block> make_block_at(int64_t i) const override {
    if (!config.score_over_place) return make_block();
    ModelConfig c = config;
    const double root = std::sqrt(static_cast<double>(c.head_dim));
    const double factor = c.attention_multiplier == 0.0 ? 1.0 / root : c.attention_multiplier;
    c.attention_multiplier = factor / static_cast<double>(i + 1);
    return std::make_unique<Gpt2Block>(c, dtype_, device_);
  }

  void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) override {
    visitor(prefix + "transformer.wte.weight", embedding_);
    visitor(prefix + "transformer.wpe.weight", positions_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    final_norm_.visit(prefix + "transformer.ln_f.", visitor);
    if (head_.defined()) visitor(prefix + "lm_head.weight", head_);
  }

 private:
  Var embedding_, positions_;
  LayerNorm final_norm_;
  Var head_;
};

class Gpt2Family : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"GPT2LMHeadModel"}; }
  std::string model_type() const override { return "gpt2"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<Gpt2Model>(config, dtype, device);
  }

  std::string base_prefix() const override { return "transformer."; }
  std::string embedding_name() const override { return "transformer.wte.weight"; }
  bool is_transposed(const std::string& path) const override {
    return path.ends_with(".c_attn.weight") || path.ends_with(".c_proj.weight") ||
           path.ends_with(".c_fc.weight");
  }
  bool ignores(const std::string& name) const override {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");  // causal masks
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override;
  void write_config(const ModelConfig& c, nlohmann::json& json) const override;
  void validate(const ModelConfig& c) const override;
};

constexpr const char* inner_key = "n_inner";
constexpr const char* root_key = "scale_attn_weights";
constexpr const char* place_key = "scale_attn_by_inverse_layer_idx";

void Gpt2Family::read_config(const ConfigFields& fields, ModelConfig& c) const {
  c.hidden_size = fields.required_size({"hidden_size", "n_embd"});
  c.num_layers = fields.required_size({"num_hidden_layers", "n_layer"});
  c.num_heads = c.num_kv_heads = fields.required_size({"num_attention_heads", "n_head"});
  c.head_dim = c.hidden_size / c.num_heads;
  c.max_position_embeddings = fields.required_size({"max_position_embeddings", "n_positions"});
  c.intermediate_size = fields.size(inner_key, 4 * c.hidden_size);
  c.norm_eps = fields.number("layer_norm_epsilon", 1e-5);
  c.hidden_act = fields.text("activation_function", "gelu_new");
  c.attention_multiplier = fields.flag(root_key, true) ? 0.0 : 1.0;
  c.score_over_place = fields.flag(place_key, false);
  c.tie_word_embeddings = true;
  c.bos_token_id = 50256;
  c.eos_token_ids = {50256};
  if (fields.flag("reorder_and_upcast_attn", false)) {
    notice_once(
        concat("note: ", fields.what(), ": \"reorder_and_upcast_attn\" asks for scores in ",
               "f32; here they have the model's dtype, which is the same with --dtype f32"));
  }
  if (fields.flag("add_cross_attention", false)) {
    fail(fields.what(), ": \"add_cross_attention\" is not implemented, so this model cannot be ",
         "read");
  }
}

void Gpt2Family::write_config(const ModelConfig& c, nlohmann::json& json) const {
  write_field(json, {"n_embd", "hidden_size"}, c.hidden_size);
  write_field(json, {"n_layer", "num_hidden_layers"}, c.num_layers);
  write_field(json, {"n_head", "num_attention_heads"}, c.num_heads);
  write_field(json, {"n_positions", "max_position_embeddings"}, c.max_position_embeddings);
  const bool is_default = c.intermediate_size == 4 * c.hidden_size;
  if (!is_default || (json.contains(inner_key) && !json[inner_key].is_null())) {
    json[inner_key] = c.intermediate_size;
  }
  json["layer_norm_epsilon"] = c.norm_eps;
  json["activation_function"] = c.hidden_act;
  json[root_key] = c.attention_multiplier == 0.0;
  json[place_key] = c.score_over_place;
}

void Gpt2Family::validate(const ModelConfig& c) const {
  check_heads_divide(c);
  check(function_of(c.hidden_act) != nullptr, "unknown \"activation_function\" \"", c.hidden_act,
        "\"; known: gelu_new, gelu_fast, gelu_pytorch_tanh, gelu, relu");
  check(c.num_kv_heads == c.num_heads && c.head_dim * c.num_heads == c.hidden_size,
        "GPT-2's heads share nothing and divide \"hidden_size\" (", c.hidden_size, "), got ",
        c.num_heads, " heads of ", c.head_dim, ", ", c.num_kv_heads, " for keys");
  check(c.attention_multiplier == 0.0 || c.attention_multiplier == 1.0,
        "GPT-2 has no factor of scores but 1 / sqrt(head_dim) or 1, got ", c.attention_multiplier);
  check(c.norm_eps >= 0, "\"layer_norm_epsilon\" (", c.norm_eps, ") must not be negative");
}

[[maybe_unused]] const bool registered = register_family(std::make_unique<Gpt2Family>());

}  // namespace
}  // namespace cbq
