// Granite 3 (IBM 2024): LLaMA's blocks with four multipliers, which scale the embedding, the scores
// of attention, what attention and feed-forward part add to the stream, and (as a divisor) the
// logits.
#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/families/llama.h"

namespace cbq {
namespace {

class GraniteFamily : public LlamaFamily {
 public:
  std::vector<std::string> architectures() const override { return {"GraniteForCausalLM"}; }
  std::string model_type() const override { return "granite"; }

  void read_config(const ConfigFields& fields, ModelConfig& c) const override {
    LlamaFamily::read_config(fields, c);
    c.embedding_multiplier = fields.number("embedding_multiplier", 1.0);
    c.attention_multiplier = fields.number("attention_multiplier", 1.0);
    if (c.attention_multiplier == 0.0) {  // in ModelConfig: none is given
      fail(fields.what(), ": \"attention_multiplier\" (0) must be positive");
    }
    c.residual_multiplier = fields.number("residual_multiplier", 1.0);
    c.logits_divisor = fields.number("logits_scaling", 1.0);
  }

  void write_config(const ModelConfig& c, nlohmann::json& json) const override {
    LlamaFamily::write_config(c, json);
    json["embedding_multiplier"] = c.embedding_multiplier;
    json["attention_multiplier"] = c.attention_multiplier != 0.0
                                       ? c.attention_multiplier
                                       : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
    json["residual_multiplier"] = c.residual_multiplier;
    json["logits_scaling"] = c.logits_divisor;
  }

  void validate(const ModelConfig& c) const override {
    LlamaFamily::validate(c);
    const auto positive = [](const char* key, double value) {
      check(value > 0 && std::isfinite(value), "\"", key, "\" (", value, ") must be positive");
    };
    positive("embedding_multiplier", c.embedding_multiplier);
    positive("residual_multiplier", c.residual_multiplier);
    positive("logits_scaling", c.logits_divisor);
    if (c.attention_multiplier != 0.0) positive("attention_multiplier", c.attention_multiplier);
  }
};

[[maybe_unused]] const bool registered = register_family(std::make_unique<GraniteFamily>());

}  // namespace
}  // namespace cbq
