// StepGraph: a step that is recorded once and replayed: one call of the host instead of hundreds of
// launches.
//
// What is recorded are launches with their arguments, so everything that differs between replays
// has to be read from memory: segments are copied into buffers that stay, numbers (learning rates,
// corrections) are written to device memory before the replay. What the host decides (a phase, a
// batch of another size) makes another graph.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tensor/runtime/memory_pool.h"

namespace cbq {

class StepGraph {
 public:
  /// True where steps are to be recorded: on CUDA, unless CBQ_GRAPH=0 or CBQ_SYNC=1 are set or a
  /// DeviceProfile collects. On the CPU it gains nothing and is off unless CBQ_GRAPH=1, which
  /// replays a Recording (for tests).
  static bool wanted(Device device);

  explicit StepGraph(Device device);
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  /// Runs `step`, with the tensors it makes in the graph's own memory. To be called before
  /// capture(): libraries choose their algorithms and make their workspaces at the first call.
  void warm_up(const std::function<void()>& step);

  /// Records what `step` launches; nothing of it runs. False if that is impossible, for the reason
  /// in trouble(): the step moved elements between host and device, or the driver refuses. What
  /// the step throws for other reasons passes through.
  bool capture(const std::function<void()>& step);
  bool captured() const { return captured_; }
  const std::string& trouble() const { return trouble_; }

  /// Queues what was captured once more.
  void replay();

  /// The memory that replays write to. Between replays it is free for tensors that are gone before
  /// the next one (an evaluation).
  MemoryPool& memory() { return pool_; }

 private:
  struct Recorder;  // CUDA's graph, or the CPU's Recording

  Device device_;
  MemoryPool pool_;
  std::unique_ptr<Recorder> recorder_;
  bool captured_ = false;
  std::string trouble_;
};

}  // namespace cbq
