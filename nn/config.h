// What a model is, from its config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cbq {

/// Rotary position embedding; nn/rope.h says what each type computes.
struct RopeConfig {
  double theta = 10000.0;
  double share = 1.0;  // of a head's elements the first that turn; the others have no position
  std::string type = "default";  // or linear, llama3, yarn, dynamic, longrope
  double factor = 1.0;           // all types but default
  double low_freq_factor = 1.0;  // llama3
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 8192;  // llama3, yarn, longrope
  double beta_fast = 32.0, beta_slow = 1.0;         // yarn: turns within the original context
  bool truncate = true;                             // yarn: ramp between whole pairs
  std::optional<double> attention_factor;           // yarn, longrope; none: computed from factor
  std::optional<double> mscale, mscale_all_dim;     // yarn
  std::vector<double> short_factor, long_factor;    // longrope: one per pair
  int64_t dynamic_context = 2048;                   // dynamic: "max_position_embeddings"
};

/// The factor of cosines and sines: `attention_factor`, if it is given. If not:
///   yarn      m(mscale) / m(mscale_all_dim) if both are given and not 0, else m(1),
///             with m(k) = 0.1 k ln(factor) + 1; 1 for factor <= 1
///   longrope  sqrt(1 + ln(factor) / ln(original context)); 1 for factor <= 1
///   others    1
double attention_factor(const RopeConfig& rope);

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

  // LLaMA and the families that have its blocks
  RopeConfig rope;
  bool attention_bias = false;         // of q, k, v
  bool attention_output_bias = false;  // of o
  bool mlp_bias = false;
  bool qk_norm = false;        // queries and keys pass an RMSNorm per head
  int64_t sliding_window = 0;  // tokens that attention reaches back; 0: all

  // Granite
  double embedding_multiplier = 1.0;
  double attention_multiplier = 0.0;  // of q k^T; 0: 1 / sqrt(head_dim)
  double residual_multiplier = 1.0;   // of what attention and feed-forward part add
  double logits_divisor = 1.0;

  // SmolLM3
  std::vector<bool> rotary_layers;  // where queries and keys turn; empty: everywhere

  // OPT
  int64_t embedding_size = 0;  // of token embeddings; 0: hidden_size
  bool enable_bias = true;     // of all linears
  bool norm_first = true;      // before attention and feed-forward part, or behind their sums
  bool final_norm = true;      // before the head
  bool norm_affine = true;     // norms have weight and bias

  // Gemma 2, Gemma 3
  std::vector<bool> local_layers;  // attend within the sliding window
  double local_theta = 0.0;        // the rotary base of those (Gemma 3); 0: that of all
  double score_cap = 0.0;          // soft cap of the attention's scores; 0: none
  double logit_cap = 0.0;          // of the logits

  // GPT-2
  bool score_over_place = false;  // the scores of block i are divided by i + 1

  // GPT-NeoX, StableLM
  bool parallel_residual = false;  // attention and feed-forward part read the same x

  // Qwen3-MoE
  int64_t num_experts = 0;          // of a sparse feed-forward part
  int64_t experts_per_token = 0;    // that the router chooses
  int64_t expert_size = 0;          // width of an expert: rows of its gate and up
  bool normalized_experts = false;  // the chosen probabilities are divided by their sum
  std::vector<bool> sparse_layers;  // whose feed-forward part has experts; empty: none

  // BLOOM
  bool residual_after_norm = false;  // residual connections start behind the norms

  /// Elements of a head that the rotary embedding turns: head_dim times `rope.share`, rounded down.
  int64_t rotary_dim() const;

  /// The config.json this came from, unknown fields included; empty for a model made here.
  std::string source;

  /// Reads `folder`/config.json (or `path` itself when it is a file).
  /// Throws std::runtime_error naming the file, the field, what was expected and what came.
  static ModelConfig load(const std::filesystem::path& path);
  /// Accepts both spellings of transformers: rope_theta + rope_scaling (before 5.0) or
  /// rope_parameters; torch_dtype or dtype; null for "the default". The sizes that determine
  /// the weights (vocabulary, hidden, intermediate, layers, heads) must be there.
  /// Where two fields state the same fact differently, transformers 5 decides which one counts, and
  /// a notice (tensor/runtime/notice.h) says so.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& what);

  /// Whether `source` names the dtype of the weights; if not, `dtype` is a guess ("f32"), which a
  /// reader of the weights corrects.
  bool states_dtype() const;

  /// `source` with the fields above written over it, in its own spelling; what from_json reads back
  /// as the same model.
  nlohmann::json to_json() const;

  /// Throws std::invalid_argument when fields contradict each other; from_json has called it.
  void validate() const;

  /// Longest sequence in tokens that is computed as the model defines it: the longest that the
  /// rotary embedding is scaled to (yarn, dynamic), else "max_position_embeddings". Attention
  /// within a sliding window is full attention up to there; beyond it is not implemented.
  int64_t context() const;
};

}  // namespace cbq
