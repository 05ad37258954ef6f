// The section "quantization_config" of compressed-tensors: which layers have which grids.
#pragma once

#include <string>
#include <vector>

#include "cbq/exporters/layout_reader.h"
#include "cbq/exporters/name_pattern.h"

namespace cbq {

/// "weights" of a group.
struct CompressedWeights {
  int64_t bits = 8;
  std::string strategy;     // "tensor", "channel" or "group"
  int64_t group_size = -1;  // -1: one group
  bool symmetric = true;
  bool act_order = false;  // groups are given by weight_g_idx
};

/// A group of layers.
struct CompressedScheme {
  std::string what;        // in messages: file and group
  bool is_packed = false;  // pack-quantized; else int-quantized
  CompressedWeights weights;
  ActivationConfig input;
};

/// "Linear", a layer's path, or "re:" and a pattern that matches from the path's begin.
class LayerTarget {
 public:
  enum class Kind { none, every_linear, pattern, path };
  LayerTarget(const std::string& text, const std::string& what);
  /// How the target speaks of a layer. A path counts before a pattern, and that before the class.
  Kind speaks_of(const std::string& path) const;

 private:
  std::string text_;
  std::shared_ptr<const NamePattern> pattern_;  // null: none
};

class CompressedSchemes {
 public:
  CompressedSchemes() = default;
  /// Throws std::runtime_error, naming `what`, the field and a remedy, for a section that is broken
  /// or asks for what is not read: types other than integers, blocks, 2:4 sparsity, quantized
  /// caches and outputs, transforms.
  CompressedSchemes(const nlohmann::json& section, const std::string& what);
  /// Of the layer at `path`; null: none. Throws std::runtime_error where groups disagree.
  const CompressedScheme* of(const std::string& path) const;
  bool ignores(const std::string& path) const;

 private:
  void add_group(const std::string& name, const nlohmann::json& group, const std::string& format);

  std::string what_;
  std::vector<std::pair<LayerTarget, size_t>> targets_;  // and the number of its scheme
  std::vector<CompressedScheme> schemes_;
  std::vector<LayerTarget> ignored_;
};

}  // namespace cbq
