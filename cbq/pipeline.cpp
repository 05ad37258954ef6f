// A run, in the order in which it happens. Each phase is a function of cbq/run/.
#include "cbq/pipeline.h"

#include <algorithm>
#include <optional>

#include "cbq/global_transforms.h"
#include "cbq/quantizers.h"
#include "cbq/run/phases.h"

namespace cbq {
namespace {

/// Rounding to nearest takes no longer than reading its state would.
bool keeps_state(const RunContext& run) {
  return run.reconstructs || run.solver != nullptr || run.settings.polishes();
}

/// None where the folder is of no concern: a run that keeps no state must still notice a state of
/// another run that lies there.
std::optional<JobIdentity> identity_of(const RunContext& run) {
  const std::filesystem::path& folder = run.hooks.resume_folder;
  if (folder.empty() || (!keeps_state(run) && !ResumeFolder::has_state(folder))) return {};
  std::string digest = run.hooks.model_digest;
  if (digest.empty()) {
    digest = digest_of(run.model, [&](const std::string&, const Tensor&) {
      run.watch.poll("reading the model's parameters");
    });
  }
  return identity_of_run(run.model, digest, run.segments, run.settings);
}

/// Whether anybody reads the quantized stream: windows, solvers, observers of static ranges.
bool needs_stream(const RunContext& run) {
  const bool observes = run.settings.abits < float_bits && !run.settings.act_dynamic;
  return keeps_state(run) || observes;
}

/// The boundaries of the untouched model that windows from `next` on, and polishing, ask for.
std::vector<int64_t> boundaries_from(const RunContext& run, int64_t next) {
  std::vector<int64_t> boundaries;
  for (int64_t b = run.touched; b < run.blocks() && run.solves_towards_original(); ++b) {
    boundaries.push_back(b);  // in front of each block that is solved (original_streams)
  }
  for (auto i = static_cast<size_t>(next); i < run.schedule.size() && run.reconstructs; ++i) {
    boundaries.push_back(run.schedule[i].window.last() + 1);
  }
  if (run.settings.polishes()) boundaries.push_back(run.blocks());
  return boundaries;
}

/// A window of blocks in which nothing is learned.
void round_window(RunContext& run, Preparation& preparation, int64_t number) {
  const ScheduledWindow& scheduled = run.scheduled(number);
  run.watch.step(number, run.blocks(), run.doing());
  const OriginalStreams original = original_streams(run, scheduled.window);
  preparation.prepare(scheduled.window.last() + 1);
  attach(run, scheduled.window, preparation);
  solve(run, scheduled.window, original, {});
  freeze(run, scheduled);
  advance(run, scheduled);
  save(run);
}

void reconstruct_window(RunContext& run, Preparation& preparation, int64_t number) {
  const ScheduledWindow& scheduled = run.scheduled(number);
  const Window& window = scheduled.window;
  reset_peak(run.model.device());
  // Original streams may fetch blocks, so they come before the window's own are in memory.
  const auto count = static_cast<int64_t>(run.segments.size());
  WindowData data{run.stream, {run.original->get(window.last() + 1, 0, count)}};
  const Clock clock;
  if (run.settings.homologous) data.targets.push_back(preparation.original_answer(window));
  OriginalStreams original = original_streams(run, window);
  preparation.prepare(window.last() + 1);
  attach(run, window, preparation);
  solve(run, window, original,
        [&](int64_t block) { run.show(number, 0, concat("solving block ", block)); });
  original.clear();
  WindowReport report = reconstruct(run, number, std::move(data));
  freeze(run, scheduled);
  advance(run, scheduled);
  report.seconds = clock.since_start();
  report.peak_bytes = memory_statistics(run.model.device()).peak_bytes;
  tell(run, report);
  run.result.windows.push_back(report);
  save(run);
}

void quantize(RunContext& run) {
  const bool whole = !run.model.on_demand();
  // The identity is that of the model before anything is done to it.
  std::optional<JobIdentity> identity = identity_of(run);
  if (needs_original_activations(run.settings) && whole && !run.original) {
    run.original = cache_in_memory(run.model, run.segments, boundaries_from(run, 0), run.watch);
  }
  run.clock = {};
  reset_peak(run.model.device());
  Preparation preparation(run);
  if (whole) preparation.prepare(run.blocks());
  const double prepared = run.clock.since_start();
  if (identity) run.folder = ResumeFolder(run.hooks.resume_folder, std::move(*identity));
  if (needs_stream(run)) {
    run.stream =
        embed_segments(run.model, run.segments, run.watch.poll_of("embedding the segments"));
  }
  const int64_t first = resume(run, preparation);
  if (!keeps_state(run)) run.folder = ResumeFolder();
  if (needs_original_activations(run.settings) && !run.original) {
    run.original = cache_on_the_way(run.model, run.segments, boundaries_from(run, first),
                                    {run.hooks.interrupted, {}});
  }
  for (auto number = first; number < static_cast<int64_t>(run.schedule.size()); ++number) {
    run.reconstructs ? reconstruct_window(run, preparation, number)
                     : round_window(run, preparation, number);
  }
  if (!run.reconstructs) {
    run.watch.step(run.blocks(), run.blocks(), run.doing());
    run.result.peak_bytes =
        std::max(run.result.peak_bytes, memory_statistics(run.model.device()).peak_bytes);
  }
  polish_model(run);

  RunResult& result = run.result;
  result.notes.insert(result.notes.end(), run.notes.begin(), run.notes.end());
  result.seconds = prepared + (result.polish ? result.polish->seconds : 0.0);
  for (const WindowReport& r : result.windows) {
    result.seconds += r.seconds;
    result.peak_bytes = std::max(result.peak_bytes, r.peak_bytes);
  }
  if (result.polish) result.peak_bytes = std::max(result.peak_bytes, result.polish->peak_bytes);
  if (!run.reconstructs) result.seconds = run.seconds();
}

}  // namespace

bool needs_original_activations(const Settings& settings) {
  return settings.reconstructs() || settings.polishes() ||
         (settings.solves() && parse_solver(settings.solver)->wants_original_inputs());
}

RunResult quantize(Transformer& model, const Segments& segments, const Settings& settings,
                   std::shared_ptr<ActivationCache> original, const RunHooks& hooks) {
  validate(settings, model.block_count());
  check_global_transforms(model, settings);
  check_segments(model, segments);
  check(model.dtype() != Dtype::f16,
        "quantize: the model computes in f16; weights are quantized in ",
        "f32, bf16 or f64: load it in one of these");
  check(!settings.polishes() || settings.rate_polish_norm == 0.0 || model.dtype() == Dtype::f32,
        "rate_polish_norm: norms are learned in f32, and the model is in ", model.dtype(),
        "; load it in f32 (--dtype f32), or give 0");
  check_layers(model, settings);
  if (settings.preprocess != "none") parse_preprocessors(settings.preprocess);
  check(!original || (original->segments() == static_cast<int64_t>(segments.size()) &&
                      original->tokens() == static_cast<int64_t>(segments.front().size()) &&
                      original->boundaries() == model.block_count() + 1),
        "quantize: the original activations are of other segments or another model");
  check(!model.on_demand() || hooks.keep_block,
        "quantize: blocks on demand are released when they are finished; RunHooks::keep_block must "
        "write them");
  for (int64_t b = 0; b < model.block_count() && model.on_demand(); ++b) model.release_block(b);
  remove_quantizers(model);
  RunContext run(model, segments, settings, std::move(original), hooks);
  quantize(run);
  return std::move(run.result);
}

}  // namespace cbq
