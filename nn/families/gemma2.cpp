// Gemma 2's configuration: soft caps of scores and logits, and every second layer within a sliding
// window (nn/families/gemma_model.cpp has the equations).
#include <nlohmann/json.hpp>

#include "nn/families/gemma.h"

namespace cbq {
namespace {

class Gemma2Family : public GemmaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"Gemma2ForCausalLM"}; }
  std::string model_type() const override { return "gemma2"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    read_gemma(fields, {8192, 2, nullptr, 50.0, 30.0}, c);
    c.rope = read_rope(fields, c.max_position_embeddings);
  }
  void write_config(const ModelConfig& c, nlohmann::json& config) const override {
    write_gemma(c, config);
    write_rope(config, c.rope);
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<Gemma2Family>());

}  // namespace
}  // namespace cbq
