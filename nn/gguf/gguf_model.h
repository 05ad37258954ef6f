// A model in a GGUF file as Hugging Face folders have it: configuration, and weights by name.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nn/config.h"
#include "nn/gguf/gguf.h"

namespace cbq {

/// One parameter of the model.
struct GgufWeight {
  std::string name;  // of the parameter: "model.layers.0.self_attn.q_proj.weight"
  Shape shape;
  std::string source;  // name of the file's tensor; empty: zeros, a bias that the file leaves out
  /// Heads whose rows llama.cpp has interleaved; 0: rows are in order. See GgufModel::read.
  int64_t interleaved_heads = 0;
};

class GgufModel {
 public:
  /// Reads the configuration and finds the tensor of every parameter.
  /// Architectures ("general.architecture"): llama, which is LLaMA, Mistral and what is built like
  /// them (with an attention window: Mistral); qwen2; qwen3.
  /// Throws std::runtime_error, naming the file, for another architecture, a missing field, a
  /// missing tensor, one of another shape, and one that the architecture does not have.
  explicit GgufModel(GgufFile file);

  const GgufFile& file() const { return file_; }
  /// dtype is "f32"; numbers of the file's 32 bits are the shortest decimals that round to them.
  const ModelConfig& config() const { return config_; }
  /// In the order of the model's layers. The head is missing where it is tied to the embedding.
  const std::vector<GgufWeight>& weights() const { return weights_; }

  /// Calls `piece` with the values of a weight, in order, some rows at a time.
  ///
  /// llama.cpp rotates neighbouring values (2j, 2j + 1) of a head, other libraries the values j and
  /// j + head_dim / 2. Its files therefore hold the rows of q and k (architecture llama) in the
  /// order 0, head_dim / 2, 1, head_dim / 2 + 1, ...; here they come in the order 0, 1, 2, ...
  void read(const GgufWeight& weight,
            const std::function<void(std::span<const float>)>& piece) const;

 private:
  void read_config();
  void read_rope(const std::string& prefix);
  bool has_any(const std::vector<const char*>& parts) const;
  void add(const std::string& name, const std::string& source, Shape shape, int64_t heads = 0);
  void add_block(int64_t block);
  void refuse_unused_tensors() const;

  GgufFile file_;
  std::string architecture_;
  ModelConfig config_;
  std::vector<GgufWeight> weights_;
};

}  // namespace cbq
