// SmolLM3 (Hugging Face 2025): LLaMA's blocks, some of which attend without positions ("NoPE").
#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "nn/families/llama.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

constexpr const char* turning_key = "no_rope_layers";  // despite the name, 1 means with

/// One for each layer: "no_rope_layers", or else all but every "no_rope_layer_interval"-th.
std::vector<bool> turning_layers(const ConfigFields& fields, int64_t layers) {
  std::vector<bool> turns;
  if (!fields.has(turning_key)) {
    const int64_t interval = fields.size("no_rope_layer_interval", 4);
    for (int64_t i = 0; i < layers; ++i) turns.push_back((i + 1) % interval != 0);
    return turns;
  }
  const nlohmann::json& list = fields.at(turning_key);
  if (!list.is_array()) fail(fields.what(), ": \"", turning_key, "\" must be a list of 0 and 1");
  for (const nlohmann::json& one : list) {
    turns.push_back(json_int(one, turning_key, fields.what(), 0, 1) == 1);
  }
  return turns;
}

/// The window of any layer; 0 if all attend to everything.
int64_t window_of(const ConfigFields& fields, const std::vector<bool>& turns) {
  if (!fields.flag("use_sliding_window", false) || !fields.has("sliding_window")) return 0;
  const int64_t window = fields.size("sliding_window", 1);
  bool is_used = std::find(turns.begin(), turns.end(), false) != turns.end();
  if (fields.has("layer_types")) {
    const nlohmann::json& types = fields.at("layer_types");
    is_used = !types.is_array() ||
              std::find(types.begin(), types.end(), "sliding_attention") != types.end();
  }
  return is_used ? window : 0;
}

/// Whether config.json gives the base of the rotary embedding.
bool says_theta(const ConfigFields& fields) {
  const nlohmann::json& scaling = fields.at("rope_scaling");  // counts if it is there
  const bool is_scaled = scaling.is_object() && !scaling.empty();
  const nlohmann::json& inner = is_scaled ? scaling : fields.at("rope_parameters");
  return fields.has("rope_theta") || (inner.is_object() && inner.contains("rope_theta"));
}

class SmolLm3Family : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"SmolLM3ForCausalLM"}; }
  std::string model_type() const override { return "smollm3"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 32768;
    c.tie_word_embeddings = true;
    c.bos_token_id = 128000;
    c.eos_token_ids = {128001};
    LlamaFamily::read_config(fields, c);
    if (!says_theta(fields)) c.rope.theta = 2000000.0;
    c.rotary_layers = turning_layers(fields, c.num_layers);
    c.sliding_window = window_of(fields, c.rotary_layers);
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    LlamaFamily::write_config(c, json);
    nlohmann::json turns = nlohmann::json::array();
    for (const bool one : c.rotary_layers) turns.push_back(one ? 1 : 0);
    for (int64_t i = std::ssize(turns); i < c.num_layers; ++i) turns.push_back(1);
    json[turning_key] = turns;
    if (json.contains("use_sliding_window")) return;
    json["use_sliding_window"] = c.sliding_window > 0;
    if (c.sliding_window > 0) json["sliding_window"] = c.sliding_window;
  }

  void validate(const ModelConfig& c) const override {
    LlamaFamily::validate(c);
    const auto given = static_cast<int64_t>(c.rotary_layers.size());
    check(given == 0 || given >= c.num_layers, "\"", turning_key, "\" has ", given,
          " entries for the ", c.num_layers, " layers of \"num_hidden_layers\"");
  }

 protected:
  int64_t default_kv_heads() const override { return 4; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<SmolLm3Family>());

}  // namespace
}  // namespace cbq
