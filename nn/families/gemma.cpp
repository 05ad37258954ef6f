#include "nn/families/gemma.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/families/gemma_model.h"
#include "nn/formats/json.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr const char* score_cap_key = "attn_logit_softcapping";
constexpr const char* logit_cap_key = "final_logit_softcapping";

/// "layer_types", or else all layers but every `period`-th.
std::vector<bool> layers_within_the_window(const ConfigFields& fields, int64_t period,
                                           int64_t layers) {
  std::vector<bool> local;
  if (!fields.has("layer_types")) {
    for (int64_t i = 0; i < layers; ++i) local.push_back((i + 1) % period != 0);
    return local;
  }
  const json& types = fields.at("layer_types");
  const auto known = [](const json& type) { return type == window_key || type == all_tokens_key; };
  if (!types.is_array() || !std::all_of(types.begin(), types.end(), known)) {
    fail(fields.what(), ": \"layer_types\" must be a list of \"", window_key, "\" and \"",
         all_tokens_key, "\"");
  }
  for (const json& type : types) local.push_back(type == window_key);
  return local;
}

/// A soft cap; null: none.
double read_cap(const ConfigFields& fields, const char* key, double fallback) {
  if (!fields.has(key)) return fields.contains(key) ? 0.0 : fallback;
  const double cap = fields.number(key, fallback);
  if (!(cap > 0.0)) {
    fail(fields.what(), ": \"", key, "\" (", cap, ") must be positive, or null for none");
  }
  return cap;
}

}  // namespace

std::unique_ptr<Transformer> GemmaFamily::make(const ModelConfig& config, Dtype dtype,
                                               Device device) const {
  return std::make_unique<GemmaModel>(config, dtype, device);
}

void GemmaFamily::read_gemma(const ConfigFields& fields, const Defaults& defaults,
                             ModelConfig& c) const {
  c.max_position_embeddings = defaults.max_position_embeddings;
  c.tie_word_embeddings = true;
  c.bos_token_id = 2;
  c.eos_token_ids = {1};
  read_sizes(fields, c);
  c.hidden_act = fields.text("hidden_activation", "gelu_pytorch_tanh");
  c.attention_bias = c.attention_output_bias = fields.flag("attention_bias", false);
  const int64_t scalar = fields.size("query_pre_attn_scalar", 256);
  c.attention_multiplier = 1.0 / std::sqrt(static_cast<double>(scalar));
  const int64_t period = defaults.period_key != nullptr
                             ? fields.size(defaults.period_key, defaults.local_period)
                             : defaults.local_period;
  c.local_layers = layers_within_the_window(fields, period, c.num_layers);
  const bool any =
      std::find(c.local_layers.begin(), c.local_layers.end(), true) != c.local_layers.end();
  if (any) c.sliding_window = fields.size("sliding_window", 4096);
  c.score_cap = read_cap(fields, score_cap_key, defaults.score_cap);
  c.logit_cap = read_cap(fields, logit_cap_key, defaults.logit_cap);
  if (fields.flag("use_bidirectional_attention", false)) {
    fail(fields.what(), ": \"use_bidirectional_attention\" is not implemented");
  }
}

void GemmaFamily::write_gemma(const ModelConfig& c, json& config) const {
  write_sizes(c, config);
  config.erase("hidden_act");
  config["hidden_activation"] = c.hidden_act;
  config["attention_bias"] = c.attention_bias;
  const double m = c.attention_multiplier;
  config["query_pre_attn_scalar"] = m > 0.0 ? std::llround(1.0 / (m * m)) : c.head_dim;
  json types = json::array();
  for (const bool local : c.local_layers) types.push_back(local ? window_key : all_tokens_key);
  for (int64_t i = std::ssize(types); i < c.num_layers; ++i) types.push_back(all_tokens_key);
  config["layer_types"] = types;
  if (c.sliding_window > 0) config["sliding_window"] = c.sliding_window;
  config[score_cap_key] = c.score_cap > 0.0 ? json(c.score_cap) : json();
  config[logit_cap_key] = c.logit_cap > 0.0 ? json(c.logit_cap) : json();
}

void GemmaFamily::validate(const ModelConfig& c) const {
  check(c.hidden_act == "gelu_pytorch_tanh" || c.hidden_act == "gelu_new",
        "unknown \"hidden_activation\" \"", c.hidden_act, "\"; known: gelu_pytorch_tanh");
  const int64_t given = std::ssize(c.local_layers);
  check(given == 0 || given >= c.num_layers, "\"layer_types\" has ", given, " entries for the ",
        c.num_layers, " layers of \"num_hidden_layers\"");
  check(c.score_cap >= 0.0 && c.logit_cap >= 0.0, "soft caps (", c.score_cap, " and ", c.logit_cap,
        ") must not be negative");
  ModelConfig gated = c;
  gated.hidden_act = "silu";
  LlamaFamily::validate(gated);
}

}  // namespace cbq
