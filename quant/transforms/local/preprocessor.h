// Preprocessors: what is done to a floating-point model before it is quantized, so that its weights
// and activations fit a grid better. One file each in this folder.
//
// A stage is written "name" or "name:arguments" ("smoothquant:0.8"); stages joined by '+' run in
// order ("outliers:4x30+cfp_weight_activation").
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/transformer.h"
#include "quant/config.h"
#include "quant/registry.h"
#include "quant/transforms/local/learned_scaling.h"
#include "quant/transforms/local/statistics.h"

namespace cbq {

/// What stages know of the run to come, and what they leave for it.
struct PreprocessContext {
  WeightConfig weight;
  /// Per-layer overrides, by checkpoint path; empty: `weight` everywhere.
  std::function<WeightConfig(const std::string& layer)> weight_of;
  ActivationConfig activation;
  uint64_t seed = 0;
  StatisticsConfig statistics;
  /// Called between parts of the work; may throw to stop it (Ctrl-C). May be empty.
  std::function<void()> poll;

  /// Result: where the learnable clip ratio alpha of a linear's ActivationQuantizer starts, by
  /// checkpoint path; layers that are missing start at 1. Whoever makes the quantizers sets their
  /// variable a to log(alpha). Empty unless `activation.quantizes()`.
  std::map<std::string, double> activation_clip;
  /// Result: how many neighbouring channels of a linear's input share a range, by checkpoint path,
  /// from the first channel on; where it is missing all do. For Granularity::per_cluster.
  std::map<std::string, std::vector<int64_t>> activation_clusters;
  /// Result: factors of an equivalent transformation that are to be learned, by block, and where
  /// they start. Whoever learns something of the block makes a LearnedScaling of them.
  std::map<int64_t, ScalingStarts> learned_scaling;

  WeightConfig weight_config(const std::string& layer) const {
    return weight_of ? weight_of(layer) : weight;
  }
};

class Preprocessor {
 public:
  virtual ~Preprocessor() = default;
  /// As registered.
  virtual std::string name() const = 0;
  /// One sentence for --help, with the arguments it takes.
  virtual std::string help() const = 0;
  /// What the stage is for, in tables that compare methods: outliers of weights, of activations.
  virtual bool handles_weight_outliers() const { return false; }
  virtual bool handles_activation_outliers() const { return false; }
  /// True for a stage that leaves factors to be learned (PreprocessContext::learned_scaling). It
  /// must be the last one: they are about the block as this stage leaves it.
  virtual bool leaves_factors() const { return false; }
  /// True for a stage that makes PreprocessContext::activation_clip.
  virtual bool clips_activations() const { return false; }
  /// True for a stage that makes PreprocessContext::activation_clusters.
  virtual bool makes_clusters() const { return false; }
  /// StoredTransform::kind of what it leaves before linears of a block (Linear::online), as
  /// configured. Reads shapes only; by default nothing.
  virtual std::map<const Linear*, std::string> online_kinds(Block& /*block*/) const { return {}; }
  /// What stands behind the ':' of a stage. Throws std::invalid_argument for what it does not
  /// understand; by default for everything but "".
  virtual void configure(const std::string& arguments);
  /// False: `statistics` may be empty, and the forward pass over the segments is saved.
  virtual bool needs_statistics() const = 0;
  /// Changes the parameters of block `block` in place (their tensors are replaced, never written
  /// to). `statistics`: of this block's linears. Blocks come in order, each once, and none but this
  /// one need be in memory: a stage may carry numbers from block to block, not parameters.
  virtual void apply(Transformer& model, int64_t block, const CalibrationStatistics& statistics,
                     PreprocessContext& context) = 0;
  /// After the last block, what a reader of the result must know: how much was changed, and every
  /// place where the method asks for something that the model does not have.
  virtual std::vector<std::string> notes(const PreprocessContext& context) const = 0;
};

Registry<Preprocessor>& preprocessors();

/// Stages of "a+b:arguments", configured. Throws std::invalid_argument for an unknown name (with
/// the known ones), an empty stage, or arguments that a stage does not understand.
std::vector<std::unique_ptr<Preprocessor>> parse_preprocessors(const std::string& names);

/// The stages of one run, block by block. Statistics are those of the model as the earlier stages
/// left it: each stage that needs some moves a stream of its own through the blocks, before it
/// changes them.
class Preprocessing {
 public:
  /// `model` and `context` must live as long as this. Throws as parse_preprocessors does.
  Preprocessing(const std::string& names, Transformer& model,
                const std::vector<std::vector<int32_t>>& segments, PreprocessContext& context);
  /// All stages, in order, on the next block, which must be in memory.
  void apply_to_next_block();
  /// Of all stages, each starting with the stage's name.
  std::vector<std::string> notes() const;

 private:
  struct Stage {
    std::unique_ptr<Preprocessor> preprocessor;
    std::optional<StatisticsStream> stream;
  };
  Transformer& model_;
  PreprocessContext& context_;
  std::vector<Stage> stages_;
  int64_t next_ = 0;
};

/// Runs the stages on all blocks of a model in memory. Returns their notes; "none" gives none.
std::vector<std::string> apply_preprocess(const std::string& names, Transformer& model,
                                          const std::vector<std::vector<int32_t>>& segments,
                                          PreprocessContext& context);

}  // namespace cbq
