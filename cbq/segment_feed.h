// SegmentFeed: brings a window's calibration segments to where its steps read them.
//
// A step always reads the same buffers, so that it can be captured once and replayed. If the
// streams are on the device, load() copies the segments into these buffers. If they are in host
// memory, a separate queue copies the next step's segments into a second set of buffers while the
// current step runs, and load() copies them from there.
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
  /// `batch`: the most segments of a step. `staged`: use the second set of buffers even if all
  /// streams are on the device.
  SegmentFeed(const WindowData& data, int64_t batch, Device device, bool staged);

  /// Puts these segments into inputs() and targets(), for all work that is given to the current
  /// stream from now on.
  void load(const std::vector<int64_t>& segments);
  /// Starts to copy the segments that the next load() will ask for. Without this call load() copies
  /// them when it is called.
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
