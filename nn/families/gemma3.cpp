// Gemma 3 (Gemma Team 2025), its language model alone: LLaMA's linears between four norms.
//
//   x = x + g1(o_proj(attention(rope(q), rope(k), v_proj(n)))),         n = input_layernorm(x),
//       q = q_norm(q_proj(n)),  k = k_norm(k_proj(n))   (per head)
//   x = x + g2(down_proj(gelu(gate_proj(m)) * up_proj(m))),     m = pre_feedforward_layernorm(x)
//
// with g1 post_attention_layernorm and g2 post_feedforward_layernorm. Every norm is an RMSNorm
// whose gain is 1 + its weight. Embeddings are multiplied by sqrt(hidden size). Some layers attend
// within a sliding window; their rotary embedding has a base of its own.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/llama.h"
#include "nn/families/llama_model.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

using nlohmann::json;

/// RMSNorm with the gain 1 + weight.
class CenteredNorm {
 public:
  CenteredNorm(int64_t width, double eps, Dtype dtype, Device device)
      : norm_(width, eps, dtype, device) {}
  Deferred deferred(const Var& x) const {
    const Var& weight = norm_.weight;
    const Tensor one(weight.shape(), weight.dtype(), weight.device());
    kernels::fill(one, 1.0);
    return Deferred(&ag::rms_norm, x, ag::add(weight, Var(one)), norm_.eps);
  }
  Var forward(const Var& x) const { return deferred(x).value(); }
  /// For every part of the norm's width by itself.
  Var forward_parts(const Var& x) const {
    return ag::reshape(forward(ag::reshape(x, {-1, norm_.weight.size(0)})), x.shape());
  }
  void visit(const std::string& prefix, const ParameterVisitor& visitor) {
    norm_.visit(prefix, visitor);
  }

 private:
  RmsNorm norm_;
};

Var geglu(const Var& gate, const Var& up) { return ag::mul(ag::gelu(gate), up); }

class Gemma3Block : public Block {
 public:
  Gemma3Block(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        input_norm_(c.hidden_size, c.norm_eps, dtype, device),
        attention_norm_(c.hidden_size, c.norm_eps, dtype, device),
        middle_norm_(c.hidden_size, c.norm_eps, dtype, device),
        feed_forward_norm_(c.hidden_size, c.norm_eps, dtype, device),
        q_norm_(c.head_dim, c.norm_eps, dtype, device),
        k_norm_(c.head_dim, c.norm_eps, dtype, device),
        q_(c.hidden_size, c.num_heads * c.head_dim, c.attention_bias, dtype, device),
        k_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        v_(c.hidden_size, c.num_kv_heads * c.head_dim, c.attention_bias, dtype, device),
        o_(c.num_heads * c.head_dim, c.hidden_size, c.attention_bias, dtype, device),
        gate_(c.hidden_size, c.intermediate_size, false, dtype, device),
        up_(c.hidden_size, c.intermediate_size, false, dtype, device),
        down_(c.intermediate_size, c.hidden_size, false, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const auto turned = [&](const Var& heads, const CenteredNorm& norm) {
      return rotate(norm.forward_parts(heads), *rope_, s, config_.head_dim);
    };
    const auto [q, k, v] = forward_each({&q_, &k_, &v_}, input_norm_.deferred(x));
    const Var attended = attend(scaled_queries(turned(q, q_norm_), config_), turned(k, k_norm_), v,
                                s, config_.num_heads, config_.num_kv_heads);
    const Var middle = ag::add(x, attention_norm_.forward(o_.forward(attended)));
    const auto [gate, up] = forward_each({&gate_, &up_}, middle_norm_.deferred(middle));
    const Var fed = down_.forward(Deferred(&geglu, gate, up));
    return ag::add(middle, feed_forward_norm_.forward(fed));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) linear->visit(prefix + name + ".", visitor);
    q_norm_.visit(prefix + "self_attn.q_norm.", visitor);
    k_norm_.visit(prefix + "self_attn.k_norm.", visitor);
    attention_norm_.visit(prefix + "post_attention_layernorm.", visitor);
    middle_norm_.visit(prefix + "pre_feedforward_layernorm.", visitor);
    feed_forward_norm_.visit(prefix + "post_feedforward_layernorm.", visitor);
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
    ScalingSite mlp{"pre_feedforward_layernorm", {&gate_, &up_}};
    attention.obstacle = mlp.obstacle = "the norm's gain is 1 + its weight";
    ScalingSite output{"self_attn.v_proj", {&o_}};
    output.producer = &v_;
    output.head_group = config_.num_heads / config_.num_kv_heads;
    output.head_dim = config_.head_dim;
    ScalingSite down{"mlp.up_proj", {&down_}};
    down.producer = &up_;
    down.row_writers = {&gate_, &up_};
    return {attention, output, mlp, down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&q_, &k_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
    rows.rotary = true;
    rows.obstacle = "norms of queries and keys undo every factor";
    return rows;
  }

 private:
  ModelConfig config_;
  const Rope* rope_;  // owned by the model
  CenteredNorm input_norm_, attention_norm_, middle_norm_, feed_forward_norm_, q_norm_, k_norm_;
  Linear q_, k_, v_, o_, gate_, up_, down_;
};

RopeConfig local_rope(const ModelConfig& c) {
  RopeConfig rope;
  rope.theta = c.local_theta;
  return rope;
}

class Gemma3Model : public LlamaModel {
 public:
  Gemma3Model(const ModelConfig& c, Dtype dtype, Device device)
      : LlamaModel(c, dtype, device),
        local_rope_(local_rope(c), c.head_dim, device),
        final_norm_(c.hidden_size, c.norm_eps, dtype, device) {}

  Var embed(const Tensor& ids, const Sequence& s) override {
    const std::vector<double> root = {std::sqrt(static_cast<double>(config.hidden_size))};
    const double rounded = Tensor::from(root, {1}, dtype_).item();  // as transformers has it
    return ag::scale(LlamaModel::embed(ids, s), rounded);
  }
  Var head(const Var& hidden) override {
    const Var& matrix = config.tie_word_embeddings ? embedding_ : lm_head_;
    return ag::linear(final_norm_.forward(hidden), matrix, Var());
  }
  ResidualEnds residual_ends() override {
    ResidualEnds ends;
    ends.obstacle = "norms behind attention and feed-forward part write the residual stream";
    return ends;
  }
  std::unique_ptr<Block> make_block_at(int64_t i) const override {
    const std::vector<bool>& local = config.local_layers;
    const bool is_local = i < std::ssize(local) && local[static_cast<size_t>(i)];
    return std::make_unique<Gemma3Block>(config, is_local ? &local_rope_ : &rope_, dtype_, device_);
  }
  void visit_head(const std::string& prefix, const ParameterVisitor& visitor) override {
    final_norm_.visit(prefix + "model.norm.", visitor);
    if (lm_head_.defined()) visitor(prefix + "lm_head.weight", lm_head_);
  }

 private:
  Rope local_rope_;
  CenteredNorm final_norm_;
};

constexpr const char* global_key = "full_attention";
constexpr const char* local_key = "sliding_attention";

/// "layer_types", or else all but every "sliding_window_pattern"-th layer.
std::vector<bool> local_layers(const ConfigFields& fields, int64_t layers) {
  std::vector<bool> local;
  if (!fields.has("layer_types")) {
    const int64_t pattern = fields.size("sliding_window_pattern", 6);
    for (int64_t i = 0; i < layers; ++i) local.push_back((i + 1) % pattern != 0);
    return local;
  }
  const json& types = fields.at("layer_types");
  const auto known = [](const json& type) { return type == local_key || type == global_key; };
  if (!types.is_array() || !std::all_of(types.begin(), types.end(), known)) {
    fail(fields.what(), ": \"layer_types\" must be a list of \"", local_key, "\" and \"",
         global_key, "\"");
  }
  for (const json& type : types) local.push_back(type == local_key);
  return local;
}

/// The rotary embeddings: "rope_parameters" of each kind of layer, or (before transformers 5)
/// "rope_theta" and "rope_scaling" of the one and "rope_local_base_freq" of the other.
void read_ropes(const ConfigFields& fields, ModelConfig& c) {
  constexpr const char* key = "rope_parameters";
  json flat = {{"rope_theta", fields.at("rope_theta")},
               {"rope_scaling", fields.at("rope_scaling")}};
  c.local_theta = fields.number("rope_local_base_freq", 10000.0);
  if (fields.has(key)) {
    const ConfigFields both(fields.at(key), fields.what() + ": " + key);
    for (const char* kind : {global_key, local_key}) {
      if (!both.has(kind)) fail(both.what(), ": \"", kind, "\" is missing");
    }
    const ConfigFields local(both.at(local_key), both.what() + ": " + local_key);
    if (local.text("rope_type", "default") != "default") {
      fail(local.what(), ": \"rope_type\" must be \"default\"");
    }
    c.local_theta = local.number("rope_theta", c.local_theta);
    if (!fields.has("rope_scaling")) flat["rope_scaling"] = both.at(global_key);
  }
  const json& scaling = flat["rope_scaling"];
  const bool says_theta = scaling.is_object() && scaling.contains("rope_theta");
  if (!says_theta && !fields.has("rope_theta")) flat["rope_theta"] = 1000000.0;
  c.rope = read_rope(ConfigFields(flat, fields.what()), c.max_position_embeddings);
}

void write_ropes(const ModelConfig& c, json& config) {
  const bool is_new = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  json flat = is_new ? json{{"rope_parameters", config["rope_parameters"][global_key]}} : config;
  write_rope(flat, c.rope);
  if (is_new) {
    config["rope_parameters"][global_key] = flat["rope_parameters"];
    config["rope_parameters"][local_key]["rope_theta"] = c.local_theta;
    return;
  }
  config["rope_theta"] = flat["rope_theta"];
  config["rope_scaling"] = flat["rope_scaling"];
  config["rope_local_base_freq"] = c.local_theta;
}

class Gemma3Family : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Gemma3ForCausalLM"}; }
  std::string model_type() const override { return "gemma3_text"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<Gemma3Model>(config, dtype, device);
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 131072;
    c.tie_word_embeddings = true;
    c.bos_token_id = 2;
    c.eos_token_ids = {1};
    read_sizes(fields, c);
    c.hidden_act = fields.text("hidden_activation", "gelu_pytorch_tanh");
    c.attention_bias = c.attention_output_bias = fields.flag("attention_bias", false);
    const int64_t scalar = fields.size("query_pre_attn_scalar", 256);
    c.attention_multiplier = 1.0 / std::sqrt(static_cast<double>(scalar));
    read_ropes(fields, c);
    c.local_layers = local_layers(fields, c.num_layers);
    const bool any =
        std::find(c.local_layers.begin(), c.local_layers.end(), true) != c.local_layers.end();
    if (any) c.sliding_window = fields.size("sliding_window", 4096);
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      if (fields.has(key))
        fail(fields.what(), ": \"", key, "\" is not implemented, so this model cannot be read");
    }
    if (fields.flag("use_bidirectional_attention", false)) {
      fail(fields.what(), ": \"use_bidirectional_attention\" is not implemented");
    }
  }

  void write_config(const ModelConfig& c, json& config) const override {
    write_sizes(c, config);
    config.erase("hidden_act");
    config["hidden_activation"] = c.hidden_act;
    config["attention_bias"] = c.attention_bias;
    const double m = c.attention_multiplier;
    config["query_pre_attn_scalar"] = m > 0.0 ? std::llround(1.0 / (m * m)) : c.head_dim;
    write_ropes(c, config);
    json types = json::array();
    for (const bool local : c.local_layers) types.push_back(local ? local_key : global_key);
    for (int64_t i = std::ssize(types); i < c.num_layers; ++i) types.push_back(global_key);
    config["layer_types"] = types;
    if (c.sliding_window > 0) config["sliding_window"] = c.sliding_window;
  }

  void validate(const ModelConfig& c) const override {
    check(c.hidden_act == "gelu_pytorch_tanh" || c.hidden_act == "gelu_new",
          "unknown \"hidden_activation\" \"", c.hidden_act, "\"; known: gelu_pytorch_tanh");
    check(c.local_theta > 0, "\"rope_local_base_freq\" (", c.local_theta, ") must be positive");
    const int64_t given = std::ssize(c.local_layers);
    check(given == 0 || given >= c.num_layers, "\"layer_types\" has ", given, " entries for the ",
          c.num_layers, " layers of \"num_hidden_layers\"");
    ModelConfig gated = c;
    gated.hidden_act = "silu";
    LlamaFamily::validate(gated);
  }

 protected:
  int64_t default_kv_heads() const override { return 4; }
  int64_t default_head_dim() const override { return 256; }
  bool has_free_head_dim() const override { return true; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Gemma3Family>());

}  // namespace
}  // namespace cbq
