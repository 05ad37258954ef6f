// The first phase of a run: blocks come into memory and through pre-processing.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "cbq/quantizers.h"
#include "cbq/run/context.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq {

/// Blocks before pre-processing, by path.
struct Unprocessed {
  std::map<std::string, Tensor> parameters;
  std::map<std::string, std::shared_ptr<const StoredTransform>> online;  // null: none
};

class Preparation {
 public:
  /// `run` must live as long.
  explicit Preparation(RunContext& run);
  Preparation(const Preparation&) = delete;
  Preparation& operator=(const Preparation&) = delete;

  /// Brings the blocks before `end` into memory and through pre-processing: each once, in order.
  void prepare(int64_t end);
  /// What pre-processing found for the quantizers of inputs.
  ActivationStarts activation_starts() const {
    return {context_.activation_clip, context_.activation_clusters};
  }
  /// Factors that are to be learned, by block, likewise.
  const std::map<int64_t, ScalingStarts>& learned_scaling() const {
    return context_.learned_scaling;
  }
  /// What the window's original blocks make of the quantized stream: [segments, tokens, hidden].
  Tensor original_answer(const Window& window) const;

 private:
  RunContext& run_;
  int64_t prepared_ = 0;     // blocks that are (or were) in memory, pre-processed
  Unprocessed unprocessed_;  // of all blocks, where the homologous term needs them
  std::map<std::string, WeightConfig> configs_;  // of prepared layers
  PreprocessContext context_;
  std::optional<Preprocessing> preprocessing_;  // of blocks to come
};

}  // namespace cbq
