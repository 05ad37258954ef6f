#include "cbq/run/phases.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "cbq/quantizers.h"

namespace cbq {
namespace {

/// A finished block leaves the run, and the memory where it can be had back.
void keep(RunContext& run, int64_t block) {
  if (run.hooks.keep_block) run.hooks.keep_block(block);
  if (run.model.on_demand()) {
    run.model.release_block(block);
  } else if (!run.hooks.keep_originals) {
    drop_originals(run.model, {block, 1});
  }
}

/// A block is hardened. It leaves the run now, or after the whole model was polished.
void leave(RunContext& run, int64_t block) {
  if (!run.settings.polishes()) return keep(run, block);
  if (!run.hooks.keep_originals || run.model.on_demand()) drop_originals(run.model, {block, 1});
}

/// Counts the tokens that the experts of some blocks get, while it lives.
class ExpertCount {
 public:
  ExpertCount(Transformer& model, const Window& blocks) : model_(model) {
    for (int64_t b = blocks.first; b <= blocks.last(); ++b) {
      const auto experts = static_cast<size_t>(model.block(b).expert_count());
      if (experts == 0) continue;
      rows_[b].assign(experts, 0);
      model.block(b).expert_rows = &rows_[b];
    }
  }
  ~ExpertCount() {
    for (const auto& [b, rows] : rows_) model_.block(b).expert_rows = nullptr;
  }
  ExpertCount(const ExpertCount&) = delete;
  ExpertCount& operator=(const ExpertCount&) = delete;

  /// A line per block that has experts.
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    for (const auto& [b, rows] : rows_) lines.push_back(line(b, rows));
    return lines;
  }

 private:
  static std::string line(int64_t block, const std::vector<int64_t>& rows) {
    const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
    const int64_t sum = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    const int64_t even = sum / static_cast<int64_t>(rows.size());
    std::string few;
    for (size_t e = 0; e < rows.size(); ++e) {
      if (share_of_few * rows[e] >= even) continue;
      few += concat(few.empty() ? "; few reached expert " : ", ", e, " (", rows[e], ")");
    }
    const char* nearest = *least == 0 ? "; those with 0 are rounded to nearest" : "";
    return concat("block ", block, ": each of ", rows.size(), " experts got ", *least, " to ",
                  *most, " calibration tokens, ", even, " on average", few, nearest);
  }

  /// An expert is starved where it gets less than this part of an even share.
  static constexpr int64_t share_of_few = 10;
  Transformer& model_;
  std::map<int64_t, std::vector<int64_t>> rows_;
};

Window finishing(const ScheduledWindow& scheduled) {
  return {scheduled.window.first, scheduled.finishes};
}

}  // namespace

int64_t resume(RunContext& run, Preparation& preparation) {
  std::optional<RunState> state = run.folder.load(run.hooks.say);
  if (!state) return 0;
  Transformer& model = run.model;
  for (int64_t b = 0; b < state->finished; ++b) {
    run.watch.step(b, state->finished, "restoring the finished blocks");
    preparation.prepare(b + 1);
    if (run.reconstructs) attach_learned_scaling(model, {b, 1}, preparation.learned_scaling());
    attach_quantizers(model, {b, 1}, run.settings, Tensor());
    restore_quantizer_state(model, {b, 1}, run.folder.load_block(b));
    leave(run, b);
  }
  run.stream = Tensor();  // its place is free for the saved one
  run.stream = place_stream(state->stream, model.device());
  run.finished = state->finished;
  const int64_t next = run.reconstructs ? state->windows : state->finished;
  int64_t touched = run.finished;
  for (int64_t i = 0; i < next; ++i) {
    touched = std::max(touched, run.scheduled(i).window.last() + 1);
  }
  if (touched > run.finished) {
    const Window live{run.finished, touched - run.finished};
    preparation.prepare(touched);
    attach(run, live, preparation);
    restore_quantizer_state(model, live, state->live);
  }
  run.touched = touched;
  run.clock.earlier = state->seconds;
  run.result.peak_bytes = state->peak_bytes;
  run.result.windows = std::move(state->reports);
  for (const WindowReport& report : run.result.windows) {
    if (run.hooks.window) run.hooks.window(report);
  }
  for (const std::string& note : state->notes) run.note(note);
  const std::string blocks = concat(run.finished, " blocks finished");
  run.say(run.reconstructs ? concat("resumed after window ", state->windows, " of ",
                                    run.schedule.size(), " (", blocks, ")")
                           : concat("resumed: ", blocks));
  return next;
}

void attach(RunContext& run, const Window& window, const Preparation& preparation) {
  if (run.reconstructs) {
    attach_learned_scaling(run.model, window, preparation.learned_scaling());
  }
  attach_quantizers(run.model, window, run.settings, run.stream, preparation.activation_starts(),
                    run.watch.poll_of("preparing a window's quantizers"));
  run.touched = std::max(run.touched, window.last() + 1);
}

OriginalStreams original_streams(const RunContext& run, const Window& window) {
  OriginalStreams streams;
  if (!run.solves_towards_original()) return streams;
  for (int64_t b = std::max(window.first, run.touched); b <= window.last(); ++b) {
    streams[b] = run.original->get(b, 0, static_cast<int64_t>(run.segments.size()));
  }
  return streams;
}

void solve(RunContext& run, const Window& window, const OriginalStreams& original,
           const std::function<void(int64_t block)>& begins) {
  if (!run.solver) return;
  const SolveWatch watch{run.watch.poll_of("solving a block's layers"), begins};
  for (const SolveReport& report :
       solve_blocks(run.model, window, *run.solver, run.stream, watch, original)) {
    for (const std::string& note : report.notes) run.note(note);
    if (run.hooks.solved) run.hooks.solved(report);
  }
}

WindowReport reconstruct(RunContext& run, int64_t number, WindowData data) {
  const ScheduledWindow& scheduled = run.scheduled(number);
  Reconstructor reconstructor(run.model, run.settings, scheduled, number, std::move(data));
  reconstructor.set_poll(run.watch.poll_of("evaluating a window"));
  return reconstructor.run([&](int64_t step) {
    run.show(number, step, name_of(scheduled.window));
    if (run.hooks.interrupted && run.hooks.interrupted()) {
      throw Interrupted(concat("interrupted in window ", number + 1, " of ", run.schedule.size()));
    }
  });
}

void freeze(RunContext& run, const ScheduledWindow& scheduled) {
  const Window done = finishing(scheduled);
  if (done.count == 0) return;
  harden_blocks(run.model, done);
  for (int64_t b = done.first; b <= done.last() && run.folder.enabled(); ++b) {
    run.folder.save_block(b, quantizer_state(run.model, {b, 1}));
  }
}

void advance(RunContext& run, const ScheduledWindow& scheduled) {
  const Window done = finishing(scheduled);
  if (done.count == 0) return;
  if (run.stream.defined()) {
    const ExpertCount count(run.model, done);
    run.stream = run_blocks(run.model, done, run.stream,
                            run.watch.poll_of("moving the stream past finished blocks"));
    for (const std::string& line : count.lines()) run.note(line);
  }
  run.finished += done.count;
  for (int64_t b = done.first; b <= done.last(); ++b) leave(run, b);
}

void save(const RunContext& run) {
  if (!run.folder.enabled()) return;
  RunState state;
  state.finished = run.finished;
  state.stream = run.stream;
  if (run.touched > run.finished) {
    state.live = quantizer_state(run.model, {run.finished, run.touched - run.finished});
  }
  state.reports = run.result.windows;
  state.notes = run.notes;
  state.seconds = run.seconds();
  state.peak_bytes =
      std::max(run.result.peak_bytes, memory_statistics(run.model.device()).peak_bytes);
  run.folder.save(state);
}

void tell(RunContext& run, const WindowReport& report) {
  if (run.hooks.window) run.hooks.window(report);
  if (!report.trouble.empty()) run.note(concat(name_of(report.window), ": ", report.trouble));
}

void polish_model(RunContext& run) {
  if (!run.settings.polishes()) return;
  reset_peak(run.model.device());
  PolishHooks hooks;
  hooks.start = run.folder.load_polish(run.hooks.say);
  hooks.save = [&](const PolishState& state) { run.folder.save_polish(state); };
  if (hooks.start) run.say(concat("resumed after step ", hooks.start->steps, " of the last stage"));
  PolishReport report =
      polish(run.model, run.segments, *run.original, run.settings, run.watch, std::move(hooks));
  report.peak_bytes = memory_statistics(run.model.device()).peak_bytes;
  run.result.polish = report;
  run.note(concat("polish: KL(original || quantized) on ", report.held_out, " held-out segments ",
                  report.before, " -> ", report.after, report.kept ? "" : "; no gain, undone"));
  for (int64_t b = 0; b < run.blocks(); ++b) keep(run, b);
}

}  // namespace cbq
