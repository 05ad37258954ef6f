// The loss of a quantized model as a function of one multiplier per block.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cbq/settings.h"
#include "cbq/stream.h"

namespace cbq {

/// L(a): the mean negative log-likelihood (nats per scored token) of a model whose weights are
/// rounded to nearest on grids with the scales
///   s = s0 (1 + a_b)   for all linear layers of block b,
/// where s0 is what the settings' search finds for each weight and zero points stay. All a_b = 0 is
/// nearest rounding itself.
class ScaledBlocks {
 public:
  /// `settings`: FigureContext::nearest_settings(). The model gets quantizers, which go when this
  /// does. Segments of n ids give n - 1 scored tokens. `poll` is called between passes.
  /// Throws std::invalid_argument for segments of fewer than two ids and settings that cannot be.
  ScaledBlocks(Transformer& model, const Settings& settings, const Segments& segments,
               Poll poll = {});
  ~ScaledBlocks();
  ScaledBlocks(const ScaledBlocks&) = delete;
  ScaledBlocks& operator=(const ScaledBlocks&) = delete;

  /// L(a), one multiplier a_b > -1 per block. Blocks before the first whose multiplier differs from
  /// that of the call before are not run again.
  double loss(const std::vector<double>& a);
  /// How many times a block was run so far.
  int64_t block_runs() const { return block_runs_; }

 private:
  void set_scales(int64_t block, double a);
  double loss_of_head();

  Transformer& model_;
  Segments segments_;
  Poll poll_;
  std::vector<double> current_;  // of the streams; empty: none is computed yet
  std::vector<Tensor> streams_;  // [block]: in front of it [segments, tokens, hidden]
  int64_t block_runs_ = 0;
};

}  // namespace cbq
