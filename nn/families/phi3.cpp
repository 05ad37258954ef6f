// Phi-3, Phi-3.5 and Phi-4 (Abdin et al. 2024): LLaMA's function with fused linears.
//
//   x = x + o_proj(attention(rope(q), rope(k), v)),   [q k v] = qkv_proj(input_layernorm(x))
//   x = x + down_proj(silu(gate) * up),    [gate up] = gate_up_proj(post_attention_layernorm(x))
//
// The parts lie one behind the other in the rows of a fused linear. The rotary embedding may turn
// the first elements of a head only (Phi-4-mini).
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "nn/families/llama.h"
#include "nn/families/llama_model.h"

namespace cbq {
namespace {

class Phi3Block : public Block {
 public:
  Phi3Block(const ModelConfig& c, const Rope* rope, Dtype dtype, Device device)
      : config_(c),
        rope_(rope),
        queries_(c.num_heads * c.head_dim),
        keys_(c.num_kv_heads * c.head_dim),
        input_norm_(c.hidden_size, c.norm_eps, dtype, device),
        post_norm_(c.hidden_size, c.norm_eps, dtype, device),
        qkv_(c.hidden_size, queries_ + 2 * keys_, false, dtype, device),
        o_(queries_, c.hidden_size, false, dtype, device),
        gate_up_(c.hidden_size, 2 * c.intermediate_size, false, dtype, device),
        down_(c.intermediate_size, c.hidden_size, false, dtype, device) {}

  Var forward(const Var& x, const Sequence& s) override {
    const Var fused = qkv_.forward(input_norm_.deferred(x));
    const auto turned = [&](int64_t first, int64_t count) {
      return rotate(ag::take_columns(fused, first, count), *rope_, s, config_.head_dim);
    };
    const Var v = ag::take_columns(fused, queries_ + keys_, keys_);
    const Var attended = attend(turned(0, queries_), turned(queries_, keys_), v, s,
                                config_.num_heads, config_.num_kv_heads);
    const Var middle = ag::add(x, o_.forward(attended));
    const Var both = gate_up_.forward(post_norm_.deferred(middle));
    const int64_t width = config_.intermediate_size;
    const Var gate = ag::take_columns(both, 0, width), up = ag::take_columns(both, width, width);
    return ag::add(middle, down_.forward(Deferred(&ag::swiglu, gate, up)));
  }

  void visit(const std::string& prefix, const ParameterVisitor& visitor) override {
    input_norm_.visit(prefix + "input_layernorm.", visitor);
    for (auto& [name, linear] : linears()) {
      if (linear == &gate_up_) post_norm_.visit(prefix + "post_attention_layernorm.", visitor);
      linear->visit(prefix + name + ".", visitor);
    }
  }

  std::vector<NamedLinear> linears() override {
    return {{"self_attn.qkv_proj", &qkv_},
            {"self_attn.o_proj", &o_},
            {"mlp.gate_up_proj", &gate_up_},
            {"mlp.down_proj", &down_}};
  }
  bool is_fc2(const std::string& name) const override { return name == "mlp.down_proj"; }
  std::string attention_output_name() const override { return "self_attn.o_proj"; }

  std::vector<ScalingSite> scaling_sites() override {
    ScalingSite output{"self_attn.qkv_proj", {&o_}};
    output.producer = &qkv_;
    output.first_row = queries_ + keys_;
    output.head_group = config_.num_heads / config_.num_kv_heads;
    output.head_dim = config_.head_dim;
    ScalingSite down{"mlp.gate_up_proj", {&down_}};
    down.producer = &gate_up_;
    down.first_row = config_.intermediate_size;
    down.row_writers = {&gate_up_};
    return {behind_norm("input_layernorm", &qkv_, input_norm_), output,
            behind_norm("post_attention_layernorm", &gate_up_, post_norm_), down};
  }

  QueryKeyRows query_key_rows() override {
    QueryKeyRows rows{&qkv_, &qkv_, config_.num_heads, config_.num_kv_heads, config_.head_dim};
    rows.first_key_row = queries_;
    rows.rotary = true;
    if (config_.rotary_dim() != config_.head_dim) {
      rows.obstacle = "the rotary embedding turns only a part of each head";
    }
    return rows;
  }

 private:
  static ScalingSite behind_norm(const std::string& name, Linear* consumer, RmsNorm& norm) {
    ScalingSite site{name, {consumer}};
    site.norm_weight = &norm.weight;
    site.norm_equivalent = &norm.equivalent;
    return site;
  }

  ModelConfig config_;
  const Rope* rope_;        // owned by the model, shared by all blocks
  int64_t queries_, keys_;  // rows of qkv_proj that make them; values as keys
  RmsNorm input_norm_, post_norm_;
  Linear qkv_, o_, gate_up_, down_;
};

class Phi3Model : public LlamaModel {
 public:
  using LlamaModel::LlamaModel;
  std::unique_ptr<Block> make_block_at(int64_t /*i*/) const override {
    return std::make_unique<Phi3Block>(config, &rope_, dtype_, device_);
  }
};

constexpr const char* share_key = "partial_rotary_factor";
constexpr const char* original_key = "original_max_position_embeddings";

class Phi3Family : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Phi3ForCausalLM"}; }
  std::string model_type() const override { return "phi3"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override {
    return std::make_unique<Phi3Model>(config, dtype, device);
  }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 4096;
    c.norm_eps = 1e-5;
    c.eos_token_ids = {32000};
    read_sizes(fields, c);
    c.rope = read_partial_rope(fields, c.max_position_embeddings, 1.0, share_key, "rope_theta");
    if (c.rope.type == "longrope") fields.require(original_key);
    if (fields.has("sliding_window")) c.sliding_window = fields.size("sliding_window", 1);
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_sizes(c, json);
    const nlohmann::json source = json.value("rope_scaling", nlohmann::json());
    write_partial_rope(json, c.rope, share_key, "rope_theta");
    if (c.rope.type == "longrope") {
      json[original_key] = c.rope.original_max_position_embeddings;
      if (!json.contains("rope_parameters")) use_old_spelling(source, json["rope_scaling"]);
    }
    json["sliding_window"] = c.sliding_window > 0 ? nlohmann::json(c.sliding_window) : nullptr;
  }
  /// transformers 4 takes a "rope_scaling" of type, short_factor and long_factor, and no other
  /// field. Others stay where the source has them.
  static void use_old_spelling(const nlohmann::json& source, nlohmann::json& scaling) {
    nlohmann::json kept = {{"type", "longrope"}};
    for (const auto& [name, value] : scaling.items()) {
      const bool needed = name == "short_factor" || name == "long_factor";
      if (needed || (source.is_object() && source.contains(name))) kept[name] = value;
    }
    scaling = std::move(kept);
  }
  void validate(const ModelConfig& c) const override {
    LlamaFamily::validate(c);
    check(c.rope.type == "default" || c.rope.type == "longrope", "unknown rope type \"",
          c.rope.type, "\"; Phi-3 knows: default, longrope");
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Phi3Family>());

}  // namespace
}  // namespace cbq
