#include "tools/cli/quantize_run.h"

#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cbq/quantize_blockwise.h"
#include "cbq/resume.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/sealed_files.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/program_version.h"
#include "tools/cli/companions.h"
#include "tools/cli/finished_run.h"
#include "tools/cli/model_card.h"
#include "tools/cli/output_folder.h"
#include "tools/cli/run_plan.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

/// Lines for the listener and for log.txt.
class Log {
 public:
  Log(const fs::path& path, Listener& listener) : path_(path), file_(path), listener_(listener) {}
  void line(const std::string& text) {
    listener_.line(text);
    file_ << text << std::endl;
  }
  void close() {
    listener_.finish();
    file_.close();
    if (!file_) fail("cannot write ", path_.string(), "; is the disk full?");
  }

 private:
  fs::path path_;
  std::ofstream file_;
  Listener& listener_;
};

/// One invocation of the command.
class QuantizeRun {
 public:
  QuantizeRun(const QuantizeOptions& options, Listener& listener)
      : o_(options),
        listener_(listener),
        state_(resume_folder_of(options)),
        folder_(o_.output, o_.overwrite),
        log_(folder_.partial() / "log.txt", listener),
        job_(options, listener.watch(), [this](const std::string& line) { log_.line(line); }) {}

  void run();

 private:
  void steps();
  void check_state() const;
  bool drop_empty_state() const;
  RunResult reconstruct();
  void write_model();
  void save(const RunResult& result, const std::vector<Score>& before,
            const std::vector<Score>& after);
  json recipe();
  /// Where blocks are written that do not stay in memory: the result, or what becomes it.
  fs::path packed_folder() const {
    return o_.format == packed_format ? folder_.partial() : folder_.partial() / packed_format;
  }

  const QuantizeOptions& o_;
  Listener& listener_;
  const fs::path state_;  // the folder of the state of an interrupted run
  OutputFolder folder_;
  Log log_;
  QuantizeJob job_;
  JobIdentity identity_;
};

void QuantizeRun::run() {
  try {
    steps();
  } catch (const Interrupted& stop) {
    const char* hint =
        drop_empty_state()
            ? "; no window was finished, nothing is kept"
            : "; finished windows are kept: go on with the same command and --resume";
    throw Interrupted(concat(stop.what(), hint));
  } catch (...) {
    drop_empty_state();
    throw;
  }
}

/// Removes the state of a run that has not finished a window; true if there is none (any more).
bool QuantizeRun::drop_empty_state() const {
  try {
    if (ResumeFolder::has_state(state_)) return false;
    ResumeFolder::remove_unfinished(state_);
  } catch (const fs::filesystem_error&) {
    return false;  // nobody may look into the folder: what is there stays
  }
  return true;
}

/// The state of an interrupted run may be hours of work: it is dropped on request alone.
void QuantizeRun::check_state() const {
  check(o_.resume || o_.overwrite || !ResumeFolder::has_state(state_), "an interrupted run is in ",
        state_.string(), ": --resume goes on with it, --overwrite drops it and starts anew");
}

/// What will be done, in a line: defaults should not have to be guessed.
std::string summary(const Settings& s) {
  std::string text =
      fmt::format("settings: method {}, W{}A{} {}", s.method, s.wbits, s.abits, s.granularity);
  if (s.group_size > 0) text += fmt::format(" of {}", s.group_size);
  if (s.transform != "none") text += ", transform " + s.transform;
  if (s.rotation != "none") text += ", rotation " + s.rotation;
  if (s.preprocess != "none") text += ", " + s.preprocess;
  if (s.solves()) text += ", solver " + s.solver;
  const std::string last = s.polishes() ? fmt::format(", polish {} epochs", s.polish_epochs) : "";
  if (!s.reconstructs()) return text + (s.solves() ? "" : ", nearest rounding") + last;
  text += s.schedule.empty()
              ? fmt::format(", {}: windows of {}, overlap {}", s.rounding, s.window, s.overlap)
              : fmt::format(", {}: windows {}", s.rounding, s.schedule);
  return text +
         fmt::format(", {} epochs, {} segments a step, rate {:g}", s.epochs, s.batch,
                     s.rounding_rate()) +
         last;
}

void QuantizeRun::steps() {
  check_state();
  log_.line(summary(job_.settings));
  job_.load();
  job_.load_calibration();
  identity_ = job_.identity();
  const TokenSet& calibration = job_.calibration;
  log_.line("plan: " + plan_text(export_plan(job_.model->config, job_.settings), job_.settings,
                                 calibration.count(), calibration.length()));
  const auto score = [this] {
    return evaluate(*job_.model, job_.evaluation, o_.evaluation.batch, listener_);
  };
  const std::vector<Score> before = score();
  listener_.result(lines_of("original", before));
  RunResult result = reconstruct();
  // Weights that are rounded to another type score differently: what counts is what is written.
  const bool has_other_digits = job_.exporter->rounds(
      export_plan(job_.model->config, job_.settings), job_.dtype, job_.export_dtype);
  const bool is_rounded = has_other_digits && job_.exporter->is_read_here();
  if (has_other_digits && !is_rounded) {
    result.notes.push_back(concat("scores are those of the model in ", job_.dtype,
                                  ", before it was written in ", job_.export_dtype));
  }
  if (is_rounded) {
    write_model();
    job_.model = o_.loading.open(
        folder_.partial(), job_.dtype, job_.device,
        {[this](const std::string& line) { log_.line(line); }, listener_.watch().interrupted});
  }
  const std::vector<Score> after = score();
  listener_.result(lines_of("quantized", after));
  if (!is_rounded) write_model();
  save(result, before, after);
  ResumeFolder::remove(state_);
  listener_.result(
      fmt::format("{}: {:.1f} s of reconstruction, peak {:.1f} MiB of tensors in a window; {}\n",
                  o_.output, result.seconds, static_cast<double>(result.peak_bytes) / (1 << 20),
                  peak_memory_text(job_.device)));
}

json QuantizeRun::recipe() {
  const TokenSet& calibration = job_.calibration;
  return {{"cbq_version", program_version()},
          {"identity", identity_.to_json()},
          {"files", files_of(folder_.partial(), listener_.watch())},
          {"model", o_.model},
          {"model_hash", job_.model_digest},
          {"settings", to_json(job_.settings)},
          {"settings_hash", hash_of(job_.settings)},
          {"dtype", identity_.dtype},
          {"device", name_of(job_.device)},
          {"calibration",
           {{"source", o_.calibration},
            {"protocol", calibration.protocol},
            {"segments", calibration.count()},
            {"tokens", calibration.length()},
            {"hash", calibration.hash()},
            {"sampling", job_.sampling_request()},
            {"source_hash", calibration.source_hash},
            {"tokenizer_hash", calibration.tokenizer_hash}}}};
}

RunResult QuantizeRun::reconstruct() {
  const bool found = ResumeFolder::has_state(state_);
  if (found && !o_.resume) {  // --overwrite
    ResumeFolder::remove(state_);
  } else if (!found && o_.resume) {
    log_.line("nothing to resume, starting anew: there is no state in " + state_.string());
  }
  RunHooks hooks;
  hooks.say = [this](const std::string& text) { log_.line(text); };
  const Watch watch = listener_.watch();
  StepClock clock;
  hooks.progress = [&](int64_t done, int64_t total, const std::string& what) {
    if (const auto line = clock.after(done, total)) log_.line(*line);
    if (watch.progress) watch.progress(done, total, what);
  };
  hooks.window = [this](const WindowReport& w) {
    log_.line(fmt::format("blocks {}-{}: loss {:.5g} -> {:.5g} (best after epoch {}), {:.1f} s",
                          w.window.first, w.window.last(), w.loss_before, w.loss_hard, w.best_epoch,
                          w.seconds));
  };
  hooks.solved = [this](const SolveReport& r) {
    log_.line(
        fmt::format("block {}: {} layers solved, output error {:.3f} of nearest rounding's, "
                    "{:.1f} s",
                    r.block, r.layers.size(), r.mean_error_ratio(), r.seconds));
  };
  hooks.preparation = watch.progress;
  hooks.interrupted = watch.interrupted;
  hooks.keep_originals = false;
  hooks.resume_folder = state_;
  hooks.model_digest = job_.model_digest;
  std::shared_ptr<ActivationCache> original;
  if (!o_.cache.empty() && needs_original_activations(job_.settings)) {
    original = cache_on_disk(*job_.model, job_.calibration.segments, o_.cache, hooks.say, watch,
                             job_.model_digest);
  }
  RunResult result = quantize_any(job_.model, job_.calibration.segments, job_.settings, original,
                                  hooks, packed_folder());
  result.notes.insert(result.notes.begin(), job_.notes.begin(), job_.notes.end());
  listener_.finish();
  return result;
}

/// The weights and config.json. Afterwards there is no model in memory.
void QuantizeRun::write_model() {
  const fs::path& to = folder_.partial();
  const Watch watched = listener_.watch();
  const Poll poll = watched.poll_of("writing the result");
  const bool on_demand = job_.model->on_demand();
  if (!on_demand || packed_folder() != to) {
    export_model(*job_.exporter, *job_.model,
                 {to, job_.export_dtype, on_demand, job_.tokenizer_of_result()}, poll);
  }
  job_.model = nullptr;  // its files go, unless they are the result
  std::error_code ignored;
  if (packed_folder() != to) fs::remove_all(packed_folder(), ignored);
}

/// Everything else, and gives the folder its name.
void QuantizeRun::save(const RunResult& result, const std::vector<Score>& before,
                       const std::vector<Score>& after) {
  const fs::path& to = folder_.partial();
  job_.model = nullptr;
  copy_companions(o_.model, to, [this](const std::string& line) { log_.line(line); });
  if (!o_.tokenizer.empty() && tokenizer_files(to).empty()) {
    copy_tokenizer(o_.tokenizer, to);
    copy_tokenizer_companions(o_.tokenizer, to);
  }
  json windows = json::array();
  for (const WindowReport& w : result.windows) windows.push_back(to_json(w));
  for (const std::string& note : result.notes) log_.line("note: " + note);
  const json report = {{"windows", windows},
                       {"notes", result.notes},
                       {"seconds", result.seconds},
                       {"peak_bytes", result.peak_bytes},
                       {"peak_host_bytes", peak_resident_bytes()},
                       {"original", {{"results", to_json(before)}}},
                       {"quantized", {{"results", to_json(after)}}},
                       {"evaluated", digests_of(job_.evaluation)}};
  const json made = recipe();
  write_text_atomically(to / "recipe.json", sealed(made).dump(2) + "\n");
  write_text_atomically(to / "report.json", sealed(report).dump(2) + "\n");
  write_model_card(to, made, report);
  for (const Score& s : after) {
    log_.line(fmt::format("{}: perplexity {:.6f}", s.name, s.result.perplexity()));
  }
  log_.close();
  folder_.publish();
}

}  // namespace

void run_quantize(const QuantizeOptions& options, Listener& listener) {
  if (is_finished_run(options)) {
    run_finished(options, listener);
  } else {
    QuantizeRun(options, listener).run();
  }
}

}  // namespace cbq::cli
