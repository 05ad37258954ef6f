// What a linear layer reads, without the rest of its block's forward pass.
#pragma once

#include "nn/block.h"

namespace cbq {

/// Thrown by a transform: nothing behind the layer that is looked at needs to be computed.
struct InputSeen {};

/// Keeps the last input that it sees, and ends the pass.
class InputCatcher : public LinearTransform {
 public:
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    seen = x.value();
    throw InputSeen();
  }
  Tensor seen;
};

/// The block's forward pass up to the layer whose transform throws InputSeen.
inline void run_until_seen(Block& block, const Var& rows, const Sequence& sequence) {
  try {
    block.forward(rows, sequence);
  } catch (const InputSeen&) {
  }
}

}  // namespace cbq
