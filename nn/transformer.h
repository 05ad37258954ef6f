// Transformer: embedding, blocks, final norm, head. What differs between model families is behind
// Block and the family registry (nn/families/).
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/config.h"

namespace cbq {

class Transformer : public Module {
 public:
  explicit Transformer(ModelConfig c) : config(std::move(c)) {}

  /// ids i32 [batch * tokens] -> the residual stream before block 0, [batch * tokens, hidden].
  virtual Var embed(const Tensor& ids, const Sequence& sequence) = 0;
  /// The residual stream after the last block -> logits [batch * tokens, vocabulary].
  virtual Var head(const Var& hidden) = 0;
  /// embed, all blocks, head. Throws if `tokens` exceeds the model's context or an id its
  /// vocabulary.
  Var forward(const Tensor& ids, const Sequence& sequence);

  /// Path of block i in the checkpoint, e.g. "model.layers.3."; ends in '.'.
  virtual std::string block_prefix(int64_t i) const = 0;

  int64_t block_count() const { return static_cast<int64_t>(blocks.size()); }
  Device device() const { return device_; }
  Dtype dtype() const { return dtype_; }

  ModelConfig config;
  std::vector<std::unique_ptr<Block>> blocks;

 protected:
  /// Throws std::invalid_argument unless there are batch * tokens ids, not more than the context.
  void check_sequence(const Tensor& ids, const Sequence& sequence) const;

  Dtype dtype_ = Dtype::f32;
  Device device_;
};

/// A model with allocated, uninitialized parameters. Throws std::invalid_argument with the known
/// families when the architecture is unknown.
std::unique_ptr<Transformer> make_model(const ModelConfig& config, Dtype dtype, Device device);

/// Normal(0, 0.02) for matrices, with output projections scaled by 1/sqrt(2 blocks) (GPT-2's
/// recipe), ones for norm weights, zeros for biases. Philox by (seed, parameter number).
void initialize(Transformer& model, uint64_t seed);

/// Reads config.json and the safetensors of a Hugging Face folder, converted to `dtype`.
/// Throws with the names of the first few missing, unexpected or misshapen tensors.
std::unique_ptr<Transformer> load_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device);

/// Writes config.json and model.safetensors (atomically) with parameters in `dtype`.
void save_model(Transformer& model, const std::filesystem::path& folder, Dtype dtype);

}  // namespace cbq
