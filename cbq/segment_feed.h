// SegmentFeed: brings a window's calibration segments to where its steps read them.
//
// A step reads buffers that stay where they are, so that it can be captured once and replayed.
// Streams on the device are copied from there. Streams in host memory are copied on a queue of
// their own into a second set of buffers while the step before is still running.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/stream_copy.h"

namespace cbq {

/// What a window learns from; all [segments, tokens, hidden], on the model's device or in host
/// memory.
struct WindowData {
  Tensor inputs;                // quantized stream at the window's first block
  std::vector<Tensor> targets;  // original stream behind its last block; with the homologous term
                                // also the original blocks' answer to `inputs`
};

class SegmentFeed {
 public:
  /// `batch`: segments of a step at most. `staged`: by way of the second set of buffers, even where
  /// all streams are on the device.
  SegmentFeed(const WindowData& data, int64_t batch, Device device, bool staged);

  /// What the current stream is given from now on finds these segments in inputs() and targets().
  void load(const std::vector<int64_t>& segments);
  /// Starts to bring the segments that the next load() will ask for. Without it load() brings them
  /// itself, later.
  void announce(const std::vector<int64_t>& segments);

  /// [segments loaded * tokens, hidden]; the same memory for every load.
  Tensor inputs() const { return view(0); }
  std::vector<Tensor> targets() const;

  bool staged() const { return staged_; }

 private:
  Tensor view(size_t stream) const;
  void stage(const std::vector<int64_t>& segments);

  std::vector<Tensor> streams_;  // inputs, then targets
  std::vector<Tensor> buffers_;  // [batch, tokens, hidden] each: what the step reads
  std::vector<Tensor> staging_;  // the same, on their way
  int64_t loaded_ = 0;
  bool staged_;
  std::vector<int64_t> on_the_way_;
  CopyQueue queue_;
};

}  // namespace cbq
