// Mistral (Jiang et al. 2023): LLaMA's blocks; early models attend within a sliding window.
#include <nlohmann/json.hpp>

#include "nn/families/llama.h"

namespace cbq {
namespace {

class MistralFamily : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"MistralForCausalLM"}; }
  std::string model_type() const override { return "mistral"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    c.max_position_embeddings = 4096 * 32;
    read_shared(fields, c);
    // Absent: 4096; null: none.
    if (fields.has("sliding_window") || !fields.contains("sliding_window")) {
      c.sliding_window = fields.size("sliding_window", 4096);
    }
  }
  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    write_shared(c, json);
    json["sliding_window"] = c.sliding_window > 0 ? nlohmann::json(c.sliding_window) : nullptr;
  }

 protected:
  int64_t default_kv_heads() const override { return 8; }
  bool has_free_head_dim() const override { return true; }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<MistralFamily>());

}  // namespace
}  // namespace cbq
