// Global transforms: what rewrites a whole model before anything else sees it. One file each in
// this folder.
//
// The rewritten model is the original model from then on: activations, statistics, targets and the
// model's digest are its own. Transforms of one block at a time, from its statistics, are
// preprocessors (quant/transforms/local/).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nn/transformer.h"
#include "quant/registry.h"

namespace cbq {

/// Where a transform may leave a StoredTransform in every block.
enum class OnlinePlace {
  attention,         // Block::attention_online: queries and keys
  attention_output,  // Linear::online of Block::attention_output_name()
  fc2,               // Linear::online of Block::is_fc2()
};

class GlobalTransform {
 public:
  virtual ~GlobalTransform() = default;
  /// As registered.
  virtual std::string name() const = 0;
  /// One sentence for --help, with the variants it takes.
  virtual std::string help() const = 0;
  /// Its variant, and the seed of everything random in it. Throws std::invalid_argument for a
  /// variant that it does not know, with the known ones; by default for everything but "".
  virtual void configure(const std::string& variant, uint64_t seed);
  /// What it is for, in tables that compare methods: outliers of weights, of activations.
  virtual bool handles_weight_outliers() const { return false; }
  virtual bool handles_activation_outliers() const { return false; }
  /// StoredTransform::kind of what it leaves in every block, as configured; by default nothing.
  virtual std::map<OnlinePlace, std::string> online_kinds() const { return {}; }
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
