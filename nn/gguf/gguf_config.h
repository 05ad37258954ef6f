// A model's configuration as fields of a GGUF file, and the names of its tensors there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/config.h"
#include "nn/gguf/gguf_writer.h"

namespace cbq {

/// How much slower LLaMA 3.1's rule turns frequency j of a head.
double gguf_llama3_divisor(const RopeConfig& rope, int64_t head_dim, int64_t j);

/// Why no GGUF file holds a model of this configuration, in a sentence; "" if one does.
std::string gguf_config_obstacle(const ModelConfig& config);

/// Fields of the model ("general.*", "llama.*") and, for LLaMA 3.1's rotary frequencies, the tensor
/// "rope_freqs.weight". Throws std::invalid_argument where there is an obstacle.
void write_gguf_config(const ModelConfig& config, GgufWriter& writer);

/// "blk.3.attn_q.weight" for "model.layers.3.self_attn.q_proj.weight".
/// Throws std::invalid_argument for a name that no tensor of a GGUF file has.
std::string gguf_tensor_name(const std::string& path);

/// Heads whose rows llama.cpp wants interleaved (GgufModel::read): those of q and k of the
/// architecture llama; 0 for every other parameter.
int64_t gguf_interleaved_heads(const ModelConfig& config, const std::string& path);
/// The places of the rows [0, heads head_dim) of such a parameter in the file: element i is the row
/// of the model that stands at row i of the file.
std::vector<int64_t> gguf_interleaved_rows(int64_t heads, int64_t head_dim);

}  // namespace cbq
