// The LLaMA family, which others share but for biases, norms, multipliers and their config keys.
#pragma once

#include "nn/families/family.h"

namespace cbq {

class LlamaFamily : public Family {
 public:
  std::vector<std::string> architectures() const override { return {"LlamaForCausalLM"}; }
  std::string model_type() const override { return "llama"; }
  std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                    Device device) const override;
  std::string base_prefix() const override { return "model."; }
  std::string embedding_name() const override { return "model.embed_tokens.weight"; }
  bool ignores(const std::string& name) const override;
  void read_config(const ConfigFields& fields, ModelConfig& config) const override;
  void write_config(const ModelConfig& config, nlohmann::json& json) const override;
  void validate(const ModelConfig& config) const override;

 protected:
  /// The keys that all these architectures have: everything but biases and windows.
  void read_shared(const ConfigFields& fields, ModelConfig& config) const;
  void write_shared(const ModelConfig& config, nlohmann::json& json) const;
  /// The same without the rotary embedding.
  void read_sizes(const ConfigFields& fields, ModelConfig& config) const;
  void write_sizes(const ModelConfig& config, nlohmann::json& json) const;
  /// The number of key-value heads that transformers assumes if config.json does not have
  /// "num_key_value_heads"; 0: as many as query heads, which null means, too.
  virtual int64_t default_kv_heads() const { return 0; }
  /// The same of "head_dim"; 0: "hidden_size" / "num_attention_heads".
  virtual int64_t default_head_dim() const { return 0; }
  /// Whether "hidden_size" need not be a multiple of the heads where "head_dim" is given.
  virtual bool has_free_head_dim() const { return false; }
};

}  // namespace cbq
