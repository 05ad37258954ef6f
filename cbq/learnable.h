// Learnable: something in a window's blocks that reconstruction learns. The Reconstructor knows
// nothing else of what it trains.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cbq/window.h"
#include "nn/transformer.h"
#include "quant/weight_quantizer.h"

namespace cbq {

class Learnable {
 public:
  using State = std::vector<std::pair<std::string, Tensor>>;

  virtual ~Learnable() = default;
  /// Unique in the model: "model.layers.0.mlp.down_proj.weight_quantizer".
  virtual const std::string& name() const = 0;
  /// What is learned; empty after freeze(). A group's rate names its learning rate
  /// (Settings::rate_of); groups of rounding variables are not learned in blocks outside
  /// rounding_blocks.
  virtual std::vector<LearnedGroup> groups() const = 0;
  /// Hard rounding forward from now on, or relaxed.
  virtual void set_hard(bool /*hard*/) {}
  virtual void set_regularizer(const RoundingRegularizer& /*regularizer*/) {}
  /// Weights over which the regularizer's mean is taken.
  virtual int64_t regularized_weights() const { return 0; }
  /// Copies of the variables' values, and the way back to them.
  virtual State snapshot() const = 0;
  virtual void restore(const State& values) = 0;
  /// Everything that a resumed run needs; restore() takes it, too.
  virtual State state() const { return snapshot(); }
  /// The end of learning: variables become constants, relaxed weights integers.
  virtual void freeze() {}
};

struct WindowLearnable {
  int64_t block;
  std::unique_ptr<Learnable> learnable;
};

/// What the window's blocks can learn at present, in the order of their linears. The blocks keep
/// owning it: the objects here only refer to their transforms and must not outlive them.
std::vector<WindowLearnable> learnables_of(Transformer& model, const Window& window);

}  // namespace cbq
