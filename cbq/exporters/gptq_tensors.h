// The tensors of GPTQ's checkpoints (Frantar et al. 2023; AutoGPTQ, GPTQModel), which AutoRound's
// share.
//
//   <layer>.qweight  I32 [in b / 32, out]: the codes of an output as one bit stream along the
//                    inputs, first code in the lowest bits, across words
//   <layer>.qzeros   I32 [groups, out b / 32]: zero points likewise, along the outputs
//   <layer>.scales   F16 [groups, out]
//   <layer>.g_idx    I32 [in]: the group of each input; with act-order no j / group_size
//
// W = s (q - z). GPTQ's first version and AutoRound's packing "auto_gptq" store z - 1.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cbq/exporters/coded_exporter.h"
#include "cbq/exporters/layout_reader.h"

namespace cbq {

/// How zero points are stored.
enum class StoredZero {
  as_is,     // z
  minus_one  // z - 1
};

/// Why these tensors cannot hold the result, in a sentence with the setting that would help; "" if
/// they can. `with_exact_zero` names a format that stores z as it is.
std::string gptq_obstacle(const ExportPlan& plan, StoredZero stored,
                          const std::string& with_exact_zero);

/// The scales f16 [groups, out]. Throws std::invalid_argument, naming `path`, for one that is no
/// f16.
Tensor half_scales(const std::string& path, const PackedWeight& weight);

/// The inverse of add_gptq_layer, of a folder: looks at headers and g_idx, and reads a layer.
/// `codes` begin as grid_of(). Both throw std::runtime_error naming file and tensor: for a shape
/// that does not fit, a group that is not there, and a zero point of 0 stored less one, which
/// programs read in two ways.
void look_at_gptq_layer(const LayerTensors& layer, LayerCodes& codes);
PackedWeight read_gptq_layer(const LayerTensors& layer, const LayerCodes& codes, StoredZero stored);

/// Adds the tensors of a layer. Throws std::invalid_argument, naming `path`, for a scale that is no
/// f16 and a zero point that cannot be stored.
void add_gptq_layer(const std::string& path, const LayerParts& parts, StoredZero stored,
                    bool with_group_index, NamedTensors& tensors);

/// Bits and grid of a layer as the configurations name them.
struct GptqGrid {
  int bits = 0;
  int64_t group_size = -1;  // -1: one group
  bool symmetric = false;
  auto operator<=>(const GptqGrid&) const = default;
};

/// The grids of the layers that were written.
class GptqGrids {
 public:
  void add(const std::string& path, const WeightConfig& config);
  /// The most frequent one.
  const GptqGrid& usual() const;
  /// The layers that have another one, with it.
  std::vector<std::pair<std::string, GptqGrid>> others() const;

 private:
  std::map<GptqGrid, std::vector<std::string>> layers_;
};

/// A layer's path as a regular expression that matches it alone.
std::string exact_expression(const std::string& path);

}  // namespace cbq
