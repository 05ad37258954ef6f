// Transformer: embedding, blocks, final norm, head. What differs between model families is behind
// Block and the family registry (nn/families/).
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/config.h"

namespace cbq {

/// Where blocks come from that do not stay in memory.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  /// Gives a freshly made block the values of the one at `prefix` ("model.layers.3."). Throws
  /// std::runtime_error naming file and tensor.
  virtual void fill(Block& block, const std::string& prefix) const = 0;
};

/// What stands at both ends of the residual stream. A rotation changes them when it changes the
/// stream's basis (quant/transforms/).
struct ResidualEnds {
  std::vector<Var*> embeddings;  // tables [rows, hidden]; the stream starts as a sum of their rows
  Var* norm_weight = nullptr;    // of the norm before the head; null: it has none
  Var* norm_bias = nullptr;
  Var* head = nullptr;    // [vocabulary, hidden]
  bool centered = false;  // all norms subtract the mean (LayerNorm)
  /// Non-empty: why the basis of this model's stream cannot be changed.
  std::string obstacle = {};
};

class Transformer : public Module {
 public:
  explicit Transformer(ModelConfig c, Dtype dtype = Dtype::f32, Device device = Device::cpu())
      : config(std::move(c)), dtype_(dtype), device_(device) {}

  /// ids i32 [batch * tokens] -> the residual stream before block 0, [batch * tokens, hidden].
  virtual Var embed(const Tensor& ids, const Sequence& sequence) = 0;
  /// The residual stream after the last block -> logits [batch * tokens, vocabulary].
  virtual Var head(const Var& hidden) = 0;
  /// embed, all blocks, head. Throws if `tokens` exceeds the model's context or an id its
  /// vocabulary. Blocks on demand are loaded one after the other and released again.
  Var forward(const Tensor& ids, const Sequence& sequence);
  /// embedding, blocks, head. Throws for a block that is not loaded.
  void visit(const std::string& prefix, const ParameterVisitor& visitor) final;
  /// The parameters that embed() needs, and those that only head() does.
  virtual void visit_embedding(const std::string& prefix, const ParameterVisitor& visitor) = 0;
  virtual void visit_head(const std::string& prefix, const ParameterVisitor& visitor) = 0;

  /// Of this model; by default an obstacle.
  virtual ResidualEnds residual_ends();
  /// Gives the head weights of its own where it shares those of the embedding, and says so in the
  /// config. By default it throws std::invalid_argument.
  virtual void untie_head();

  /// Path of block i in the checkpoint, e.g. "model.layers.3."; ends in '.'.
  virtual std::string block_prefix(int64_t i) const = 0;
  /// A block of this model, as its first one, with allocated, uninitialized parameters.
  virtual std::unique_ptr<Block> make_block() const = 0;
  /// The same for place i, which may decide what the block computes, and what parameters it has
  /// (experts in some blocks). By default it does not.
  virtual std::unique_ptr<Block> make_block_at(int64_t i) const;

  int64_t block_count() const { return static_cast<int64_t>(blocks.size()); }
  /// Throws std::invalid_argument for a block that is not there or not loaded.
  Block& block(int64_t i) const;
  Device device() const { return device_; }
  Dtype dtype() const { return dtype_; }

  /// Whether blocks are loaded and released one by one (open_model); false: all are in memory.
  bool on_demand() const { return source_ != nullptr; }
  bool is_loaded(int64_t i) const { return blocks.at(static_cast<size_t>(i)) != nullptr; }
  /// Nothing happens when it is loaded already.
  void load_block(int64_t i);
  /// Its memory is free again, what was changed in it is lost. Throws std::invalid_argument where
  /// nothing could bring it back.
  void release_block(int64_t i);
  /// Block i as it was opened, beside the one that the model may have in memory.
  std::unique_ptr<Block> fetch_block(int64_t i) const;
  /// Calls change(block, i) once for every block: now for those in memory, for others whenever they
  /// are fetched.
  void change_blocks(std::function<void(Block& block, int64_t i)> change);
  /// All blocks stay in memory from here on.
  void load_all_blocks();
  /// Makes `blocks` that many empty places, to be filled from `source`.
  void open_blocks(int64_t count, std::unique_ptr<BlockSource> source);

  ModelConfig config;
  std::vector<std::unique_ptr<Block>> blocks;  // nullptr: not loaded; block(i) says so
  /// What was done to the model as a whole, in order ("rotation r1_r2, seed 0"); quantization is
  /// not among it.
  std::vector<std::string> transforms;

 protected:
  /// Throws std::invalid_argument unless there are batch * tokens ids (varlen: as many as rows),
  /// and no sequence is longer than the context.
  void check_sequence(const Tensor& ids, const Sequence& sequence) const;
  /// The position of every row, from 0.
  static std::vector<int32_t> positions_of(const Sequence& sequence);

  Dtype dtype_;
  Device device_;

 private:
  std::unique_ptr<BlockSource> source_;
  std::vector<std::function<void(Block&, int64_t)>> changes_;  // of blocks that are fetched
};

/// While it lives, block i is in memory; where it was not before, it leaves again.
class LoadedBlock {
 public:
  LoadedBlock(Transformer& model, int64_t i);
  ~LoadedBlock();
  LoadedBlock(const LoadedBlock&) = delete;
  LoadedBlock& operator=(const LoadedBlock&) = delete;

 private:
  Transformer& model_;
  int64_t loaded_ = -1;  // by us
};

/// Calls f(path, shape) for every parameter in the order of visit(); no block is loaded for it.
void visit_shapes(Transformer& model,
                  const std::function<void(const std::string& path, const Shape& shape)>& f);
/// Calls f(path, value) for every parameter in the order of visit(), with one block at a time in
/// memory where blocks are loaded on demand.
void read_parameters(Transformer& model,
                     const std::function<void(const std::string& path, const Tensor& value)>& f);
/// Bytes that all parameters take in the model's dtype.
int64_t parameter_bytes(Transformer& model);

/// A model with allocated, uninitialized parameters. Throws std::invalid_argument with the known
/// families when the architecture is unknown.
std::unique_ptr<Transformer> make_model(const ModelConfig& config, Dtype dtype, Device device);

/// Normal(0, 0.02) for matrices, with output projections scaled by 1/sqrt(2 blocks) (GPT-2's
/// recipe), ones for norm weights, zeros for biases. Philox by (seed, parameter number).
void initialize(Transformer& model, uint64_t seed);

/// The parts of a model that are no blocks, allocated and uninitialized; it has no blocks yet.
std::unique_ptr<Transformer> make_without_blocks(const ModelConfig& config, Dtype dtype,
                                                 Device device);

/// Reads config.json and the safetensors of a Hugging Face folder, converted to `dtype`. Names,
/// shapes and dtypes of all tensors are checked before the first is read; blocks stay on disk until
/// load_block. Throws with the names of the first few missing, unexpected or misshapen tensors.
std::unique_ptr<Transformer> open_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device);
/// The same with all blocks in memory.
std::unique_ptr<Transformer> load_model(const std::filesystem::path& folder, Dtype dtype,
                                        Device device);

/// The parameter at `path` as the family's folders hold it, and back: transposed where
/// Family::is_transposed says so.
Tensor as_stored(const ModelConfig& config, const std::string& path, const Tensor& value);

/// Writes config.json and model.safetensors (atomically) with parameters in `dtype`. Throws
/// std::invalid_argument for a model with an online part before a linear layer (StoredTransform),
/// which such a folder has no place for. An online part of attention is left out: the function is
/// the same without it.
void save_model(Transformer& model, const std::filesystem::path& folder, Dtype dtype);

}  // namespace cbq
