// CopyQueue: a second queue beside the current stream, for copies that are to overlap with what the
// current stream computes.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace cbq {

class CopyQueue {
 public:
  explicit CopyQueue(Device device);
  ~CopyQueue();
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  /// Queues to = from (same shape and dtype). Nobody waits if the host's side is page-locked; it
  /// must stay as it is until then. On the CPU the copy is done at once.
  void copy(const Tensor& to, const Tensor& from);
  /// What the current stream is given from now on starts after the copies queued so far.
  void current_waits();
  /// Copies queued from now on start after what the current stream has been given so far.
  void wait_for_current();

 private:
  struct Queue;  // CUDA's stream and events

  Device device_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace cbq
