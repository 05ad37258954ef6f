// The configuration of LLaMA, and what is common to those of the families with its blocks
// (llama_model.h).
#include "nn/families/llama.h"

#include <nlohmann/json.hpp>

#include "nn/families/llama_model.h"

namespace cbq {
namespace {

[[maybe_unused]] const bool registered = register_family(std::make_unique<LlamaFamily>());

}  // namespace

std::unique_ptr<Transformer> LlamaFamily::make(const ModelConfig& config, Dtype dtype,
                                               Device device) const {
  return std::make_unique<LlamaModel>(config, dtype, device);
}

bool LlamaFamily::ignores(const std::string& name) const {
  return name.ends_with("rotary_emb.inv_freq");  // old checkpoints carry the rotary frequencies
}

void LlamaFamily::read_sizes(const ConfigFields& fields, ModelConfig& c) const {
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
}

void LlamaFamily::read_shared(const ConfigFields& fields, ModelConfig& c) const {
  read_sizes(fields, c);
  c.rope = read_rope(fields, c.max_position_embeddings);
}

void LlamaFamily::read_config(const ConfigFields& fields, ModelConfig& c) const {
  read_shared(fields, c);
  c.attention_bias = fields.flag("attention_bias", c.attention_bias);
  c.attention_output_bias = c.attention_bias;
  c.mlp_bias = fields.flag("mlp_bias", c.mlp_bias);
}

void LlamaFamily::write_sizes(const ModelConfig& c, nlohmann::json& json) const {
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_layers;
  json["num_attention_heads"] = c.num_heads;
  json["num_key_value_heads"] = c.num_kv_heads;
  json["head_dim"] = c.head_dim;
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["rms_norm_eps"] = c.norm_eps;
  json["hidden_act"] = c.hidden_act;
}

void LlamaFamily::write_shared(const ModelConfig& c, nlohmann::json& json) const {
  write_sizes(c, json);
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
  check_rope(c.rope, c.rotary_dim());
}

}  // namespace cbq
