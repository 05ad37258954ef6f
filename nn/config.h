// What a model is, from its config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace cbq {

/// Rotary position embedding: inverse frequencies theta^(-2j / head_dim), scaled by `type`.
struct RopeConfig {
  double theta = 10000.0;
  std::string type = "default";  // or "linear": 1 / factor everywhere; "llama3": by wavelength
  double factor = 1.0;
  double low_freq_factor = 1.0;                     // llama3 only
  double high_freq_factor = 4.0;                    // llama3 only
  int64_t original_max_position_embeddings = 8192;  // llama3 only
};

/// One description for all families; which key of config.json a member comes from, and which
/// members a family reads at all, is said in the family's file (nn/families/).
struct ModelConfig {
  std::string architecture = "LlamaForCausalLM";
  std::string model_type = "llama";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 2048;
  double norm_eps = 1e-6;
  std::string hidden_act = "silu";
  bool tie_word_embeddings = false;
  int64_t bos_token_id = 1;  // -1: none
  std::vector<int64_t> eos_token_ids = {2};
  std::string dtype = "f32";  // of the checkpoint's weights, as name_of(Dtype)

  // LLaMA, Mistral, Qwen
  RopeConfig rope;
  bool attention_bias = false;         // of q, k, v
  bool attention_output_bias = false;  // of o
  bool mlp_bias = false;
  bool qk_norm = false;        // queries and keys pass an RMSNorm per head
  int64_t sliding_window = 0;  // tokens that attention reaches back; 0: all

  // OPT
  int64_t embedding_size = 0;  // of token embeddings; 0: hidden_size
  bool enable_bias = true;     // of all linears
  bool norm_first = true;      // before attention and feed-forward part, or behind their sums
  bool final_norm = true;      // before the head
  bool norm_affine = true;     // norms have weight and bias

  // BLOOM
  bool residual_after_norm = false;  // residual connections start behind the norms

  /// The config.json this came from, unknown fields included; empty for a model made here.
  std::string source;

  /// Reads `folder`/config.json (or `path` itself when it is a file).
  /// Throws std::runtime_error naming the file, the field, what was expected and what came.
  static ModelConfig load(const std::filesystem::path& path);
  /// Accepts both spellings of transformers: rope_theta + rope_scaling (before 5.0) or
  /// rope_parameters; torch_dtype or dtype; null for "the default". The sizes that determine
  /// the weights (vocabulary, hidden, intermediate, layers, heads) must be there.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& what);

  /// `source` with the fields above written over it, in its own spelling; what from_json reads back
  /// as the same model.
  nlohmann::json to_json() const;

  /// Throws std::invalid_argument when fields contradict each other; from_json has called it.
  void validate() const;

  /// Longest sequence in tokens that is computed as the model defines it. Attention within a
  /// sliding window is full attention up to there; beyond it is not implemented.
  int64_t context() const;
};

}  // namespace cbq
