// What the formats in GGUF files share: model.gguf, beside a config.json that names the method.
#pragma once

#include <string>

#include "cbq/exporters/layer_parts.h"
#include "nn/gguf/gguf_grid.h"
#include "nn/gguf/gguf_writer.h"

namespace cbq {

/// "quant_method" in config.json, and the file beside it.
inline constexpr const char* gguf_method = "gguf";
inline constexpr const char* gguf_file_name = "model.gguf";

/// Why no GGUF file holds this model, its quantizers of activations, its transforms or its
/// tokenizer; "" if one does. Says nothing of codes.
std::string gguf_model_obstacle(const ExportPlan& plan);

/// What nn/gguf/gguf_grid.h must know of a layer's grid.
GgufGrid gguf_grid_of(const WeightConfig& config, int64_t in);

/// The file while it is written.
class GgufModelFile {
 public:
  /// Writes the fields of the model and its tokenizer (target.tokenizer; without one the file has
  /// none). Parameters in floating point are written in target.dtype, those of one dimension in
  /// f32, as llama.cpp wants them.
  GgufModelFile(const Transformer& model, const ExportTarget& target);

  /// A parameter under its checkpoint path. Throws std::invalid_argument, naming it, for a value
  /// that the type does not hold.
  void add(const std::string& path, const Tensor& values);
  /// A weight on its grid. Throws std::invalid_argument, naming it, where the format cannot hold it
  /// without a loss.
  void add(const std::string& path, const PackedWeight& packed, const WeightConfig& config);
  void finish();

 private:
  /// The place in the file of every row, where they are interleaved; empty: in order.
  std::vector<int64_t> rows_of(const std::string& path) const;

  const Transformer& model_;
  ExportTarget target_;
  GgufWriter writer_;
};

}  // namespace cbq
