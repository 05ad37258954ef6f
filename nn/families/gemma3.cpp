// Gemma 3's configuration: norms of queries and keys, and a rotary base for each kind of layer
// (nn/families/gemma_model.cpp has the equations).
#include <nlohmann/json.hpp>

#include "nn/families/gemma.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr double default_local_theta = 10000.0;

/// The rotary embeddings: "rope_parameters" of each kind of layer, or (before transformers 5)
/// "rope_theta" and "rope_scaling" of the one and "rope_local_base_freq" of the other.
void read_ropes(const ConfigFields& fields, ModelConfig& c) {
  constexpr const char* key = "rope_parameters";
  json flat = {{"rope_theta", fields.at("rope_theta")},
               {"rope_scaling", fields.at("rope_scaling")}};
  c.local_theta = fields.number("rope_local_base_freq", default_local_theta);
  if (fields.has(key)) {
    const ConfigFields both(fields.at(key), fields.what() + ": " + key);
    for (const char* kind : {all_tokens_key, window_key}) {
      if (!both.has(kind)) fail(both.what(), ": \"", kind, "\" is missing");
    }
    const ConfigFields local(both.at(window_key), both.what() + ": " + window_key);
    if (local.text("rope_type", "default") != "default") {
      fail(local.what(), ": \"rope_type\" must be \"default\"");
    }
    c.local_theta = local.number("rope_theta", c.local_theta);
    if (!fields.has("rope_scaling")) flat["rope_scaling"] = both.at(all_tokens_key);
  }
  const json& scaling = flat["rope_scaling"];
  const bool says_theta = scaling.is_object() && scaling.contains("rope_theta");
  if (!says_theta && !fields.has("rope_theta")) flat["rope_theta"] = 1000000.0;
  c.rope = read_rope(ConfigFields(flat, fields.what()), c.max_position_embeddings);
}

void write_ropes(const ModelConfig& c, json& config) {
  const double local_theta = c.local_theta > 0.0 ? c.local_theta : default_local_theta;
  const bool is_new = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  json flat =
      is_new ? json{{"rope_parameters", config["rope_parameters"][all_tokens_key]}} : config;
  write_rope(flat, c.rope);
  if (is_new) {
    config["rope_parameters"][all_tokens_key] = flat["rope_parameters"];
    config["rope_parameters"][window_key]["rope_theta"] = local_theta;
    return;
  }
  config["rope_theta"] = flat["rope_theta"];
  config["rope_scaling"] = flat["rope_scaling"];
  config["rope_local_base_freq"] = local_theta;
}

class Gemma3Family : public GemmaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Gemma3ForCausalLM"}; }
  std::string model_type() const override { return "gemma3_text"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    read_gemma(fields, {131072, 6, "sliding_window_pattern", 0.0, 0.0}, c);
    if (c.score_cap > 0.0) {
      fail(fields.what(),
           ": \"attn_logit_softcapping\" is not part of Gemma 3: transformers reads ",
           "it and does not apply it. Remove it, or set it to null");
    }
    c.qk_norm = true;
    read_ropes(fields, c);
  }
  void write_config(const ModelConfig& c, json& config) const override {
    write_gemma(c, config);
    write_ropes(c, config);
  }
  void validate(const ModelConfig& c) const override {
    check(c.local_theta > 0, "\"rope_local_base_freq\" (", c.local_theta, ") must be positive");
    GemmaFamily::validate(c);
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Gemma3Family>());

}  // namespace
}  // namespace cbq
