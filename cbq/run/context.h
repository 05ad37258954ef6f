// What the phases of a run share (cbq/pipeline.cpp has their order).
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "cbq/activation_cache.h"
#include "cbq/pipeline.h"
#include "cbq/resume.h"

namespace cbq {

/// How long a run has been running.
struct Clock {
  using Steady = std::chrono::steady_clock;
  Steady::time_point start = Steady::now();
  double earlier = 0.0;  // seconds that an interrupted run took until its last state
  double since_start() const {
    return std::chrono::duration<double>(Steady::now() - start).count();
  }
};

/// One call of quantize(): what it was given, and how far it has come.
struct RunContext {
  RunContext(Transformer& model, const Segments& segments, const Settings& settings,
             std::shared_ptr<ActivationCache> original, const RunHooks& hooks);
  RunContext(const RunContext&) = delete;
  RunContext& operator=(const RunContext&) = delete;

  Transformer& model;
  const Segments& segments;
  const Settings& settings;
  const RunHooks& hooks;
  const Watch watch;                            // of everything but the steps of a reconstruction
  const bool reconstructs;                      // false: the phase "reconstruct" is left out
  const std::vector<ScheduledWindow> schedule;  // without reconstruction: block by block
  const std::unique_ptr<LayerSolver> solver;    // nullptr: the phase "solve" is left out
  std::shared_ptr<ActivationCache> original;    // of the untouched model; nullptr: nobody asks
  ResumeFolder folder;                          // not enabled: the run cannot be resumed

  int64_t finished = 0;  // blocks that are hardened
  int64_t touched = 0;   // blocks that have quantizers; an earlier window may reach further
  Tensor stream;         // quantized stream behind them; undefined where nobody reads it
  std::vector<std::string> notes;  // of windows and solvers, which a resumed run has from its state
  Clock clock;
  RunResult result;  // its notes, until the end: those of pre-processing

  int64_t blocks() const { return model.block_count(); }
  /// Whether the solver reads the original stream in front of every block.
  bool solves_towards_original() const { return solver && solver->wants_original_inputs(); }
  const ScheduledWindow& scheduled(int64_t number) const {
    return schedule[static_cast<size_t>(number)];
  }
  /// A line for the log.
  void say(const std::string& line) const;
  /// A line for the log, and for the result.
  void note(const std::string& line);
  /// Seconds of this run and of those that it goes on with.
  double seconds() const { return clock.earlier + clock.since_start(); }
  /// What a run does where nothing is learned.
  std::string doing() const;
  /// Progress of the whole run: `step` steps of window `number` are done.
  void show(int64_t number, int64_t step, const std::string& what) const;
};

/// "block 3", "blocks 3-4".
std::string name_of(const Window& window);

}  // namespace cbq
