// What exporters share: a layer's quantizers, files of weights, config.json without quantization.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cbq/exporters/exporter.h"
#include "nn/formats/sharded_writer.h"
#include "quant/activation_quantizer.h"
#include "quant/bit_packed.h"

namespace cbq {

/// What the quantizers of a linear hold, of a model that was just quantized or read from a folder.
struct LayerParts {
  const PackedWeight* packed = nullptr;             // null: the weight is in floating point
  WeightConfig weight;                              // where `packed` is there
  const ActivationQuantizer* activation = nullptr;  // null: the input is in floating point
};

/// They belong to the layer. Throws std::invalid_argument naming `path` where the weight's
/// quantizer is not hardened.
LayerParts parts_of(const Linear& linear, const std::string& path);

using NamedTensors = std::map<std::string, Tensor>;

/// A block's parameters, and those of embedding, final norm and head, by their checkpoint paths.
NamedTensors block_parameters(Transformer& model, int64_t block);
NamedTensors outer_parameters(Transformer& model);
/// A block's parameters with dequantized weights. An online transform T becomes a part of the
/// weight, W T.
NamedTensors dense_block(Transformer& model, int64_t block);

/// The weights of a folder: model.safetensors, or a file per part and their index.
class WeightFiles {
 public:
  /// `parts`: how often add() will be called.
  WeightFiles(const ExportTarget& target, int64_t parts);
  /// `stored`: as in write_safetensors_stored (nn/formats/model_files.h). Throws
  /// std::invalid_argument for a tensor that was added before.
  void add(NamedTensors tensors, const StoredTypes& stored = {});
  void finish();

 private:
  std::filesystem::path folder_;
  std::optional<ShardedWriter> shards_;
  NamedTensors all_;  // until finish(), where there are no shards
  StoredTypes stored_;
};

/// config.json of the floating-point model in `dtype`: without a quantization section.
nlohmann::json plain_config(const Transformer& model, Dtype dtype);
void write_config(const std::filesystem::path& folder, const nlohmann::json& config);

}  // namespace cbq
