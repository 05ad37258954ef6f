// What the linears of a model read during calibration: ranges per channel and a sample of tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

/// Input X [tokens, in] of one linear over all calibration segments; linears that read the same
/// activation (q, k and v) share one object. An expert that no token reached has seen zeros.
struct InputStatistics {
  std::vector<double> abs_max;   // [in], max over tokens of |X_i|
  std::vector<double> abs_mean;  // [in], mean over tokens of |X_i|
  std::vector<double> min;       // [in]
  std::vector<double> max;       // [in]
  int64_t tokens = 0;            // all that were seen; of an expert, those that reached it
  /// Rows of X from all over the calibration set, [rows, in] f32 on the host: what quantiles and
  /// searches for a clip ratio are computed from.
  Tensor sample;
};

/// Whole segments in front of a block, for searches that run the block on them.
struct BlockInput {
  Sequence sequence;
  Tensor hidden;  // [batch * tokens, hidden], on the model's device; not to be written to
};

struct StatisticsConfig {
  /// Rows of `sample` at most. Token t is kept when t is a multiple of ceil(tokens / sample_rows).
  int64_t sample_rows = 512;
  /// Tokens of `block_inputs`: segments from the first on until there are so many.
  int64_t block_tokens = 8192;
};

class CalibrationStatistics {
 public:
  /// Statistics of the linear with this checkpoint path ("model.layers.0.mlp.down_proj").
  /// Throws std::invalid_argument for a layer that was not recorded.
  const InputStatistics& of(const std::string& layer) const;
  bool empty() const { return inputs_.empty(); }
  /// What the block reads, of the first segments (StatisticsConfig::block_tokens).
  const std::vector<BlockInput>& block_inputs() const { return block_inputs_; }
  void set_block_inputs(std::vector<BlockInput> inputs) { block_inputs_ = std::move(inputs); }
  void set(const std::string& layer, std::shared_ptr<const InputStatistics> statistics) {
    inputs_[layer] = std::move(statistics);
  }
  /// Takes over the other's layers.
  void merge(CalibrationStatistics other) { inputs_.merge(other.inputs_); }

 private:
  std::map<std::string, std::shared_ptr<const InputStatistics>> inputs_;
  std::vector<BlockInput> block_inputs_;
};

/// Calibration segments on their way through a model, with a recording LinearTransform on every
/// linear of the block that they pass (its own transforms are back afterwards).
class StatisticsStream {
 public:
  /// Before block 0. Throws std::invalid_argument without segments or tokens.
  StatisticsStream(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                   const StatisticsConfig& config = {});

  /// Statistics of the linears of the next block, which must be in memory, as it stands. Throws
  /// std::runtime_error naming the layer whose input holds NaN or infinity. `poll` is called
  /// between forward passes and may throw.
  CalibrationStatistics pass_block(const std::function<void()>& poll = {});

 private:
  struct Batch {
    Sequence sequence;
    Var hidden;
  };
  Transformer& model_;
  StatisticsConfig config_;
  int64_t tokens_ = 0;
  int64_t next_ = 0;
  std::vector<Batch> batches_;
};

/// Statistics of all linears of the model as it stands. Throws as above.
CalibrationStatistics collect_statistics(Transformer& model,
                                         const std::vector<std::vector<int32_t>>& segments,
                                         const StatisticsConfig& config = {});

}  // namespace cbq
