// What the configurations of Gemma 2 and Gemma 3 have in common.
#pragma once

#include "nn/families/llama.h"

namespace cbq {

class GemmaFamily : public LlamaFamily {
 public:
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override;
  void validate(const ModelConfig& config) const override;

 protected:
  /// The defaults where a family has its own.
  struct Defaults {
    int64_t max_position_embeddings;
    int64_t local_period;         // every layer but each such one attends within the window ...
    const char* period_key;       // ... or what this key says; null: there is none
    double score_cap, logit_cap;  // 0: none
  };
  /// Everything but rotary embeddings and norms of queries and keys. Throws std::runtime_error.
  void read_gemma(const ConfigFields& fields, const Defaults& defaults, ModelConfig& config) const;
  void write_gemma(const ModelConfig& config, nlohmann::json& json) const;
  int64_t default_kv_heads() const override { return 4; }
  int64_t default_head_dim() const override { return 256; }
  bool has_free_head_dim() const override { return true; }
};

/// "layer_types" of the layers that attend to all tokens, and of those within the window.
inline constexpr const char* all_tokens_key = "full_attention";
inline constexpr const char* window_key = "sliding_attention";

}  // namespace cbq
