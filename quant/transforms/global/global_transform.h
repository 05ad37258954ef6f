// Global transforms: what rewrites a whole model before anything else sees it. One file each in
// this folder.
//
// The rewritten model is the original model from then on: activations, statistics, targets and the
// model's digest are its own. Transforms of one block at a time, from its statistics, are
// preprocessors (quant/transforms/local/).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/transformer.h"
#include "quant/registry.h"

namespace cbq {

class GlobalTransform {
 public:
  virtual ~GlobalTransform() = default;
  /// As registered.
  virtual std::string name() const = 0;
  /// Its variant, and the seed of everything random in it. Throws std::invalid_argument for a
  /// variant that it does not know, with the known ones.
  virtual void configure(const std::string& variant, uint64_t seed) = 0;
  /// Why it cannot be applied to this model, in a sentence; "" if it can. Reads shapes and the
  /// config only.
  virtual std::string obstacle(Transformer& model) const = 0;
  /// Rewrites the model so that its function stays what it was, up to rounding. Blocks that are
  /// loaded on demand are rewritten whenever they come from the disk (Transformer::change_blocks);
  /// the same bytes each time. Parameters get new tensors. Returns what a reader of the result must
  /// know. Throws std::invalid_argument where there is an obstacle.
  virtual std::vector<std::string> apply(Transformer& model) const = 0;
};

Registry<GlobalTransform>& global_transforms();

}  // namespace cbq
