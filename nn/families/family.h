// The registry of model families: one file each, registered by its architecture names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/config_fields.h"
#include "nn/formats/safetensors.h"
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
  /// What published checkpoints drop from the names of the body's tensors: "model.".
  virtual std::string base_prefix() const = 0;
  /// Path of the token embedding, which a tied head shares.
  virtual std::string embedding_name() const = 0;
  /// Path of an output head that is not tied to the embedding.
  virtual std::string head_name() const { return "lm_head.weight"; }
  /// Whether folders hold the matrix at `path` as [in, out], the transposed of the parameter
  /// (GPT-2's Conv1D). By default none is.
  virtual bool is_transposed(const std::string& path) const;
  /// Tensors of published checkpoints that are not parameters (cached tables, version numbers).
  /// They are ignored silently. A notice names every other tensor that is ignored.
  virtual bool ignores(const std::string& name) const;
  /// Name in this checkpoint of the parameter at `path`. It is `path`, or else `path` without
  /// base_prefix(), or else (for a tied embedding) the name of the head. `path` if none is there.
  std::string checkpoint_name(const ModelConfig& config, const Checkpoint& checkpoint,
                              const std::string& path) const;
};

/// Registers a family under its architectures; called from the family's own file.
bool register_family(std::unique_ptr<Family> family);
/// Throws std::invalid_argument with the known architectures when there is none of this name.
const Family& family_of(const std::string& architecture);
/// Sorted.
std::vector<std::string> known_architectures();
/// The values of Family::model_type, sorted.
std::vector<std::string> known_model_types();
/// The first architecture of the family with this model_type. Throws std::invalid_argument with the
/// known ones when there is none.
std::string architecture_of_type(const std::string& model_type);

/// The config of a new model of the family `model_type` ("llama", "opt", ...): the activation is
/// the family's default, so are sizes that the family derives from others; the rest comes from
/// `shape`. Throws std::invalid_argument for an unknown family (with the known ones), and
/// std::runtime_error for sizes that the family cannot have.
ModelConfig config_of_family(const std::string& model_type, const ModelConfig& shape);

}  // namespace cbq
