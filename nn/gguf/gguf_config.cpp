#include "nn/gguf/gguf_config.h"

#include <algorithm>
#include <cmath>

#include "nn/gguf/gguf_names.h"
#include "nn/rope.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr const char* block_prefix = "model.layers.";

/// "general.architecture"; empty for an architecture without GGUF files here.
std::string gguf_architecture(const ModelConfig& config) {
  constexpr std::pair<const char*, const char*> known[] = {{"LlamaForCausalLM", "llama"},
                                                           {"MistralForCausalLM", "llama"},
                                                           {"Qwen2ForCausalLM", "qwen2"},
                                                           {"Qwen3ForCausalLM", "qwen3"}};
  for (const auto& [ours, theirs] : known) {
    if (config.architecture == ours) return theirs;
  }
  return "";
}

void write_rope(const ModelConfig& config, const std::string& prefix, GgufWriter& writer) {
  const RopeConfig& rope = config.rope;
  writer.number(prefix + "rope.dimension_count", static_cast<uint32_t>(config.head_dim));
  writer.real(prefix + "rope.freq_base", static_cast<float>(rope.theta));
  if (rope.type == "linear") {
    writer.text(prefix + "rope.scaling.type", "linear");
    writer.real(prefix + "rope.scaling.factor", static_cast<float>(rope.factor));
  }
  if (rope.type != "llama3") return;
  writer.number(prefix + "rope.scaling.original_context_length",
                static_cast<uint32_t>(rope.original_max_position_embeddings));
  writer.begin_tensor("rope_freqs.weight", {config.head_dim / 2}, *find_gguf_format("F32"));
  for (int64_t j = 0; j < config.head_dim / 2; ++j) {
    const auto divisor = static_cast<float>(gguf_llama3_divisor(rope, config.head_dim, j));
    writer.append(std::as_bytes(std::span(&divisor, 1)));
  }
}

}  // namespace

double gguf_llama3_divisor(const RopeConfig& rope, int64_t head_dim, int64_t j) {
  const double exponent = static_cast<double>(2 * j) / static_cast<double>(head_dim);
  const auto frequency = static_cast<float>(std::pow(rope.theta, -exponent));
  return static_cast<double>(frequency) / static_cast<double>(llama3_frequency(rope, frequency));
}

std::string gguf_config_obstacle(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (gguf_architecture(config).empty()) {
    return concat("GGUF files of the architecture ", config.architecture,
                  " are not written, only of LLaMA, Mistral, Qwen2 and Qwen3");
  }
  if (config.hidden_act != "silu") {
    return concat("llama.cpp computes silu in the feed-forward part, the model ",
                  config.hidden_act);
  }
  if (rope.type != "default" && rope.type != "linear" && rope.type != "llama3") {
    return concat("the scaling \"", rope.type, "\" of rotary frequencies is not written, only ",
                  "linear and LLaMA 3.1's");
  }
  // The file holds the results of the rule; readers guess its parameters from the usual bounds.
  if (rope.type == "llama3" && (rope.low_freq_factor != 1.0 || rope.high_freq_factor != 4.0)) {
    return "LLaMA 3.1's rotary frequencies with other bounds than 1 and 4 are not written";
  }
  return "";
}

void write_gguf_config(const ModelConfig& config, GgufWriter& writer) {
  const std::string obstacle = gguf_config_obstacle(config);
  check(obstacle.empty(), obstacle);
  const std::string architecture = gguf_architecture(config), prefix = architecture + ".";
  const auto size = [&](const char* key, int64_t value) {
    writer.number(prefix + key, static_cast<uint32_t>(value));
  };
  writer.text("general.architecture", architecture);
  writer.number("general.quantization_version", 2);
  size("vocab_size", config.vocab_size);
  size("context_length", config.max_position_embeddings);
  size("embedding_length", config.hidden_size);
  size("block_count", config.num_layers);
  size("feed_forward_length", config.intermediate_size);
  size("attention.head_count", config.num_heads);
  size("attention.head_count_kv", config.num_kv_heads);
  size("attention.key_length", config.head_dim);
  size("attention.value_length", config.head_dim);
  if (config.sliding_window > 0) size("attention.sliding_window", config.sliding_window);
  writer.real(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(config.norm_eps));
  write_rope(config, prefix, writer);
}

std::string gguf_tensor_name(const std::string& path) {
  const size_t dot = path.rfind('.');
  const std::string module = path.substr(0, dot), kind = path.substr(std::min(dot, path.size()));
  for (const GgufPart& part : {gguf_embedding, gguf_final_norm, gguf_head}) {
    if (module == part.ours) return part.theirs + kind;
  }
  if (module.starts_with(block_prefix)) {
    const std::string rest = module.substr(std::string(block_prefix).size());
    const std::string number = rest.substr(0, rest.find('.'));
    for (const GgufPart& part : gguf_block_parts) {
      if (rest == number + "." + part.ours) return concat("blk.", number, ".", part.theirs, kind);
    }
  }
  throw std::invalid_argument(message_of("no tensor of a GGUF file holds ", path));
}

int64_t gguf_interleaved_heads(const ModelConfig& config, const std::string& path) {
  if (gguf_architecture(config) != "llama") return 0;
  const auto is_of = [&](const GgufPart& part) {
    return path.ends_with(std::string(".") + part.ours + ".weight") ||
           path.ends_with(std::string(".") + part.ours + ".bias");
  };
  return is_of(gguf_q) ? config.num_heads : is_of(gguf_k) ? config.num_kv_heads : 0;
}

std::vector<int64_t> gguf_interleaved_rows(int64_t heads, int64_t head_dim) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < heads * head_dim; ++i) {
    const int64_t head = i / head_dim, place = i % head_dim;
    rows.push_back(head * head_dim + place % 2 * (head_dim / 2) + place / 2);
  }
  return rows;
}

}  // namespace cbq
