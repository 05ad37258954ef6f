// Qwen2, Qwen2.5 (Yang et al. 2024) and Qwen3 (Yang et al. 2025): LLaMA's blocks.
//   Qwen2: q, k and v have biases, o has none.
//   Qwen3: no biases; queries and keys pass an RMSNorm per head before the rotary embedding.
// Both may have sliding windows in their later layers, switched off in most published models.
#include <algorithm>

#include "nn/families/llama.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

/// The window of any layer; 0 if all attend to everything.
int64_t window_of(const ConfigFields& fields, int64_t layers) {
  if (!fields.flag("use_sliding_window", false)) return 0;
  const int64_t window = fields.size("sliding_window", 4096);
  if (fields.has("layer_types")) {
    const nlohmann::json& types = fields.at("layer_types");
    return types.is_array() &&
                   std::find(types.begin(), types.end(), "sliding_attention") == types.end()
               ? 0
               : window;
  }
  if (!fields.has("max_window_layers")) return window;  // the default, 28, is about another model
  return json_int(fields.at("max_window_layers"), "max_window_layers", fields.what(), 0) < layers
             ? window
             : 0;
}

class QwenFamily : public LlamaFamily {
 public:
  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 32768;
    c.bos_token_id = -1;
    c.eos_token_ids.clear();
    read_shared(fields, c);
    c.sliding_window = window_of(fields, c.num_layers);
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_shared(c, json);
    if (json.contains("use_sliding_window")) return;
    json["use_sliding_window"] = c.sliding_window > 0;
    if (c.sliding_window > 0) json["sliding_window"] = c.sliding_window;
  }

 protected:
  int64_t default_kv_heads() const override { return 32; }
  bool has_free_head_dim() const override { return true; }
};

class Qwen2Family : public QwenFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Qwen2ForCausalLM"}; }
  std::string model_type() const override { return "qwen2"; }
  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    QwenFamily::read_config(fields, c);
    c.attention_bias = true;
    c.attention_output_bias = false;
  }
};

class Qwen3Family : public QwenFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Qwen3ForCausalLM"}; }
  std::string model_type() const override { return "qwen3"; }
  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    QwenFamily::read_config(fields, c);
    c.attention_bias = c.attention_output_bias = fields.flag("attention_bias", false);
    c.qk_norm = true;
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    QwenFamily::write_config(c, json);
    json["attention_bias"] = c.attention_bias;
  }

 protected:
  int64_t default_head_dim() const override { return 128; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Qwen2Family>()) &&
                                         register_family(std::make_unique<Qwen3Family>());

}  // namespace
}  // namespace cbq
