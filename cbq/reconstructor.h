// The reconstruction of one window: learn what its blocks offer (scales, clip ratios, rounding;
// cbq/learnable.h) so that the quantized blocks reproduce the original ones.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "cbq/activation_cache.h"
#include "cbq/learnable.h"
#include "cbq/loss.h"
#include "cbq/segment_feed.h"
#include "cbq/settings.h"
#include "cbq/stream.h"
#include "cbq/window.h"
#include "tensor/runtime/stream_graph.h"

namespace cbq {

struct WindowReport {
  Window window;
  int64_t finishes = 0;
  // Losses are means per token over the segments that decide (Settings::keep_segments; all by
  // default), against the targets the window was trained on.
  double loss_before = 0.0;   // at the start, hard rounding
  double loss_relaxed = 0.0;  // at the end, relaxed rounding (equals hard where nothing relaxes)
  double loss_hard = 0.0;     // of the parameters kept
  int64_t best_epoch = 0;     // 0: the start was best
  int64_t steps = 0;
  double seconds = 0.0;
  int64_t peak_bytes = 0;  // device memory of this window
  std::string trouble;     // non-empty: NaN or explosion, what was done
};

/// Number of optimizer steps of one window.
int64_t steps_per_window(const Settings& settings, int64_t segments);

/// Order of the segments in an epoch: a permutation that depends on these numbers alone.
std::vector<int64_t> segment_order(int64_t segments, uint64_t seed, int64_t window, int64_t epoch);

class Reconstructor {
 public:
  /// The linears of the window's blocks carry their quantizers already: new ones, or those that
  /// the previous window left behind in the overlap. `number` of the window in its schedule makes
  /// the order of the segments its own. Settings must be valid.
  Reconstructor(Transformer& model, const Settings& settings, const ScheduledWindow& window,
                int64_t number, WindowData data);

  /// Trains, restores the best parameters, leaves all quantizers of the window rounding hard.
  /// `after_step(steps done)` may throw to stop; the quantizers are then in an undefined state.
  WindowReport run(const std::function<void(int64_t)>& after_step);

  /// Mean loss per token over the segments that decide.
  double evaluate(bool hard);
  /// Called between the passes of an evaluation; may throw to stop, as after_step may.
  void set_poll(Poll poll) { poll_ = std::move(poll); }

  /// Step number `step` on these segments: what run() repeats, for benchmarks. `next`: those of the
  /// step after it, where they are known.
  void train_step(int64_t step, const std::vector<int64_t>& segments,
                  const std::vector<int64_t>& next = {});
  // The two halves of train_step(). This one prepares everything that differs between steps where
  // run_step() reads it: segments in buffers, numbers in device memory, the phase in the
  // quantizers.
  void prepare_step(int64_t step, const std::vector<int64_t>& segments);
  // Launches kernels and does nothing else: it neither reads results nor copies from the host. On
  // CUDA its third call in a phase is captured, and later calls replay it.
  void run_step();
  /// Mean loss per token of the steps since the last call, 0 without any; waits for the device.
  double take_mean_loss();

 private:
  struct Learner {
    std::unique_ptr<Learnable> learnable;
    bool rounds;  // its rounding is learned in this window
  };
  using Snapshot = std::vector<Learnable::State>;

  void choose_variables();
  void set_hard(bool hard);
  void set_regularizer(int64_t step);
  void launch_step();
  bool train_epoch(int64_t epoch, const std::function<void(int64_t)>& after_step);
  bool healthy(int64_t step);
  void keep_if_better(int64_t epoch);
  Snapshot snapshot() const;
  void restore(const Snapshot& values);

  Transformer& model_;
  const Settings& settings_;
  ScheduledWindow window_;
  int64_t number_;
  const bool regularizer_mean_;  // of the window's weights, not their sum
  const bool keeps_last_;        // not the best
  WindowData data_;
  LossConfig loss_;
  int64_t total_steps_;
  std::vector<Learner> learners_;
  int64_t rounding_weights_ = 0;  // elements whose rounding is learned
  std::unique_ptr<Optimizer> optimizer_;
  SegmentFeed feed_;
  Sequence sequence_{};  // of the segments in feed_
  bool hard_ = false;    // phase of the step that is prepared
  RoundingRegularizer regularizer_;
  std::unique_ptr<StepGraph> graph_;  // of full batches in graph_hard_'s phase
  bool graph_hard_ = false;
  bool capture_failed_ = false;
  int64_t warm_ups_ = 0;  // of graph_
  Tensor running_loss_;   // [1], sum of the losses since the last look
  int64_t running_steps_ = 0;
  Snapshot best_;
  double best_loss_ = 0.0;
  WindowReport report_;
  Poll poll_;
};

}  // namespace cbq
