// The registry of model families: one file each, registered by its architecture names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/config_fields.h"
#include "nn/safetensors.h"
#include "nn/transformer.h"

namespace cbq {

class Family {
 public:
  virtual ~Family() = default;
  /// Values of config.json's "architectures" that this family builds.
  virtual std::vector<std::string> architectures() const = 0;
  /// config.json's "model_type": names the architecture where "architectures" is missing.
  virtual std::string model_type() const = 0;
  /// Reads the family's keys of config.json: sizes, biases, norms, positions, and the family's
  /// defaults of tie_word_embeddings and special tokens. Throws std::runtime_error.
  virtual void read_config(const ConfigFields& fields, ModelConfig& config) const = 0;
  /// Writes the same keys over `json`, in the spelling it has.
  virtual void write_config(const ModelConfig& config, nlohmann::json& json) const = 0;
  /// Throws std::invalid_argument for a config that this family cannot build.
  virtual void validate(const ModelConfig& config) const = 0;
  /// The model without its blocks, which Transformer::make_block makes.
  virtual std::unique_ptr<Transformer> make(const ModelConfig& config, Dtype dtype,
                                            Device device) const = 0;
  /// Name in this checkpoint of the parameter at `path` (some publishers drop a prefix).
  virtual std::string checkpoint_name(const Checkpoint& checkpoint, const std::string& path) const;
  /// Tensors that may be in a checkpoint and are not parameters (cached tables, a tied head's
  /// copy).
  virtual bool ignores(const ModelConfig& config, const std::string& name) const;
};

/// Registers a family under its architectures; called from the family's own file.
bool register_family(std::unique_ptr<Family> family);
/// Throws std::invalid_argument with the known architectures when there is none of this name.
const Family& family_of(const std::string& architecture);
/// Sorted.
std::vector<std::string> known_architectures();

}  // namespace cbq
