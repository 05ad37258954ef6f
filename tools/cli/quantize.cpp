// cbq quantize: a model folder -> a folder of integers that evaluates the same.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <memory>

#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/resume.h"
#include "experiments/progress.h"
#include "kernels/ops.h"
#include "nn/hash.h"
#include "nn/json.h"
#include "tensor/device_memory.h"
#include "tools/cli/evaluation.h"
#include "tools/cli/model_loading.h"
#include "tools/cli/output_folder.h"
#include "tools/cli/settings_options.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq::cli {
namespace {

constexpr const char* footer =
    "Of a setting's value, the option given wins over --recipe, and --recipe over --profile.\n"
    "Ctrl-C finishes the current step and keeps the finished windows; the same command with\n"
    "--resume goes on and ends in the same bytes.";

struct Options {
  std::string model, output, tokenizer, calibration = "model", format = "packed";
  std::string dense_dtype = "f32", cache;
  int64_t segments = 0, segment_length = 0;
  bool overwrite = false, resume = false;
  EvaluationOptions evaluation;
  SettingsOptions settings;
  LoadOptions loading;
  ComputeOptions compute;
};

/// Lines for the screen and for log.txt.
class Log {
 public:
  explicit Log(const fs::path& path)
      : path_(path), file_(path), progress_(std::cerr, stderr_is_terminal()) {}
  void line(const std::string& text) {
    progress_.line(text);
    file_ << text << std::endl;
  }
  Progress& progress() { return progress_; }
  void close() {
    progress_.finish();
    file_.close();
    if (!file_) fail("cannot write ", path_.string(), "; is the disk full?");
  }

 private:
  fs::path path_;
  std::ofstream file_;
  Progress progress_;
};

/// One invocation of the command.
class QuantizeRun {
 public:
  explicit QuantizeRun(const Options& options)
      : o_(options),
        settings_(o_.settings.resolve()),
        device_(o_.compute.apply()),
        folder_(o_.output, o_.overwrite),
        log_(folder_.partial() / "log.txt") {}

  void run();

 private:
  void steps();
  void load();
  bool needs_calibration() const;
  bool drop_empty_state() const;
  void check_parameters();
  RunResult reconstruct();
  RunResult quantize_blockwise(std::shared_ptr<ActivationCache> original, RunHooks hooks);
  void save(const RunResult& result, const std::vector<Score>& before,
            const std::vector<Score>& after);
  json recipe() const;
  fs::path resume_folder() const;
  /// Where blocks are written that do not stay in memory: the result, or what becomes it.
  fs::path packed_folder() const {
    return o_.format == "packed" ? folder_.partial() : folder_.partial() / "packed";
  }

  const Options& o_;
  Settings settings_;
  Device device_;
  OutputFolder folder_;
  Log log_;
  std::unique_ptr<Transformer> model_;
  std::string model_hash_;
  TokenSet calibration_;
  std::vector<NamedTokens> evaluation_;
};

void QuantizeRun::run() {
  catch_interrupts();
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
  std::error_code ignored;
  if (fs::exists(resume_folder() / "state.safetensors", ignored)) return false;
  fs::remove_all(resume_folder(), ignored);
  return true;
}

/// What will be done, in a line: defaults should not have to be guessed.
std::string summary(const Settings& s) {
  std::string text =
      fmt::format("settings: profile {}, W{}A{} {}", s.profile, s.wbits, s.abits, s.granularity);
  if (s.group_size > 0) text += fmt::format(" of {}", s.group_size);
  if (s.preprocess != "none") text += ", " + s.preprocess;
  if (s.reconstruct == "none") return text + ", nearest rounding";
  text += s.schedule.empty()
              ? fmt::format(", {}: windows of {}, overlap {}", s.rounding, s.window, s.overlap)
              : fmt::format(", {}: windows {}", s.rounding, s.schedule);
  return text + fmt::format(", {} epochs, {} segments a step, rate {:g}", s.epochs, s.batch,
                            s.rounding_rate());
}

void QuantizeRun::steps() {
  log_.line(summary(settings_));
  load();
  const std::vector<Score> before = evaluate(*model_, evaluation_, o_.evaluation.batch);
  print(std::cout, "original", before);
  const RunResult result = reconstruct();
  const std::vector<Score> after = evaluate(*model_, evaluation_, o_.evaluation.batch);
  print(std::cout, "quantized", after);
  save(result, before, after);
  std::error_code ignored;
  fs::remove_all(resume_folder(), ignored);
  std::cout << o_.output << ": " << fmt::format("{:.1f}", result.seconds)
            << " s of reconstruction, peak "
            << fmt::format("{:.1f}", static_cast<double>(result.peak_bytes) / (1 << 20))
            << " MiB of tensors in a window; " << peak_memory_text(device_) << "\n";
}

void QuantizeRun::load() {
  check(o_.format == "packed" || o_.format == "dense", "--export: unknown '", o_.format,
        "'; known: packed, dense");
  if (is_quantized_folder(o_.model)) {
    fail(o_.model, " is quantized already; give the floating-point model");
  }
  std::error_code absent;
  check(!fs::equivalent(o_.model, o_.output, absent),
        "--output is the model's own folder, which --overwrite would destroy; name another");
  check(
      o_.format == "packed" || settings_.abits >= float_bits,
      "--export dense stores weights alone, so the quantization of activations would be lost; use "
      "--export packed, or --abits 16");
  validate(settings_, ModelConfig::load(o_.model).num_layers);
  const bool samples = needs_calibration() && o_.calibration == "model";
  model_ = o_.loading.open(
      o_.model, dtype_from_name(o_.compute.dtype), device_,
      [this](const std::string& line) { log_.line(line); },
      samples ? "--calibration model, which samples from the model token by token," : "");
  check_parameters();
  const TokenContext context{model_.get(), o_.tokenizer.empty() ? o_.model : o_.tokenizer};
  evaluation_ = load_evaluation(o_.evaluation, context);
  if (needs_calibration()) {
    log_.line("calibration: " + o_.calibration);
    calibration_ =
        calibration_tokens(o_.calibration, context, o_.segments, o_.segment_length, settings_.seed);
  } else {
    calibration_.segments = {{0}};
    calibration_.protocol = "none needed";
  }
}

/// Nearest rounding with ranges from the data at hand looks at no calibration data.
bool QuantizeRun::needs_calibration() const {
  const bool observes = settings_.abits < float_bits && !settings_.act_dynamic;
  return settings_.reconstruct != "none" || settings_.preprocess != "none" || observes;
}

/// Hashes every parameter, and refuses those that no method can repair.
void QuantizeRun::check_parameters() {
  Digest digest;
  read_parameters(*model_, [&](const std::string& path, const Tensor& value) {
    if (kernels::has_non_finite(value)) {
      fail(o_.model, ": ", path, " holds NaN or infinity; the checkpoint is broken, fetch or ",
           "train it again");
    }
    digest.add(path).add(value);
  });
  model_hash_ = digest.hex();
}

fs::path QuantizeRun::resume_folder() const {
  fs::path path = fs::path(o_.output).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path += ".resume";
}

RunResult QuantizeRun::reconstruct() {
  const fs::path state = resume_folder();
  std::error_code error;
  const bool found = fs::exists(state, error);
  if (found && !o_.resume) {  // hours of work, perhaps: never dropped for want of a word
    check(o_.overwrite, "an interrupted run is in ", state.string(),
          ": --resume goes on with it, --overwrite drops it and starts anew");
    fs::remove_all(state, error);
  } else if (!found && o_.resume) {
    log_.line("nothing to resume, starting anew: there is no " + state.string());
  }
  RunHooks hooks;
  hooks.say = [this](const std::string& text) { log_.line(text); };
  hooks.progress = [this](int64_t done, int64_t total, const std::string& what) {
    log_.progress().update(done, total, what);
  };
  hooks.window = [this](const WindowReport& w) {
    log_.line(fmt::format("blocks {}-{}: loss {:.5g} -> {:.5g} (best after epoch {}), {:.1f} s",
                          w.window.first, w.window.last(), w.loss_before, w.loss_hard, w.best_epoch,
                          w.seconds));
  };
  hooks.interrupted = interrupted;
  hooks.resume_folder = state;
  std::shared_ptr<ActivationCache> original;
  if (!o_.cache.empty() && settings_.reconstruct != "none") {
    original = cache_on_disk(*model_, calibration_.segments, settings_.batch, o_.cache, hooks.say);
  }
  RunResult result = model_->on_demand()
                         ? quantize_blockwise(original, hooks)
                         : quantize(*model_, calibration_.segments, settings_, original, hooks);
  log_.progress().finish();
  return result;
}

/// Finished blocks go to the folder at once, from where the quantized model is opened again.
RunResult QuantizeRun::quantize_blockwise(std::shared_ptr<ActivationCache> original,
                                          RunHooks hooks) {
  QuantizedFolderWriter writer(*model_, packed_folder());
  hooks.keep_block = [&](int64_t block) { writer.add_block(block); };
  RunResult result =
      quantize(*model_, calibration_.segments, settings_, std::move(original), hooks);
  writer.finish();
  model_ = open_quantized(packed_folder(), dtype_from_name(o_.compute.dtype), device_);
  return result;
}

json QuantizeRun::recipe() const {
  return {{"cbq_version", version},
          {"model", o_.model},
          {"model_hash", model_hash_},
          {"settings", to_json(settings_)},
          {"settings_hash", hash_of(settings_)},
          {"dtype", o_.compute.dtype},
          {"device", name_of(device_)},
          {"calibration",
           {{"source", o_.calibration},
            {"protocol", calibration_.protocol},
            {"segments", calibration_.count()},
            {"tokens", calibration_.length()},
            {"hash", calibration_.hash()},
            {"source_hash", calibration_.source_hash},
            {"tokenizer_hash", calibration_.tokenizer_hash}}}};
}

/// Files beside the weights that a user of the folder needs.
void copy_companions(const fs::path& from, const fs::path& to) {
  for (const char* name :
       {"tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.bin",
        "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}) {
    if (fs::exists(from / name)) fs::copy_file(from / name, to / name);
  }
}

void QuantizeRun::save(const RunResult& result, const std::vector<Score>& before,
                       const std::vector<Score>& after) {
  const fs::path& to = folder_.partial();
  if (o_.format == "dense") {
    save_dense(*model_, to, dtype_from_name(o_.dense_dtype));
  } else if (!model_->on_demand()) {
    save_quantized(*model_, to);
  }
  model_ = nullptr;  // its files go, unless they are the result
  std::error_code ignored;
  if (packed_folder() != to) fs::remove_all(packed_folder(), ignored);
  copy_companions(o_.model, to);
  if (!o_.tokenizer.empty() && tokenizer_files(to).empty()) copy_tokenizer(o_.tokenizer, to);
  json windows = json::array();
  for (const WindowReport& w : result.windows) windows.push_back(to_json(w));
  for (const std::string& note : result.notes) log_.line("note: " + note);
  const json report = {{"windows", windows},
                       {"notes", result.notes},
                       {"seconds", result.seconds},
                       {"peak_bytes", result.peak_bytes},
                       {"peak_host_bytes", peak_resident_bytes()},
                       {"original", {{"results", to_json(before)}}},
                       {"quantized", {{"results", to_json(after)}}}};
  write_text_atomically(to / "recipe.json", recipe().dump(2) + "\n");
  write_text_atomically(to / "report.json", report.dump(2) + "\n");
  for (const Score& s : after) {
    log_.line(fmt::format("{}: perplexity {:.6f}", s.name, s.result.perplexity()));
  }
  log_.close();
  folder_.publish();
}

/// A script may repeat the command with --resume until it succeeds: then there is nothing to do.
bool already_finished(const Options& o) {
  const fs::path recipe = fs::path(o.output) / "recipe.json";
  std::error_code ignored;
  if (!o.resume || o.overwrite || !fs::exists(recipe, ignored)) return false;
  const json settings =
      json_find(read_json_file(recipe, size_t{1} << 20), "settings_hash", recipe.string());
  if (settings != hash_of(o.settings.resolve())) return false;
  std::cout << o.output << ": finished already, with these settings\n";
  return true;
}

}  // namespace

Action setup_quantize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "folder of the floating-point model")->required();
  app.add_option("-o,--output", o->output, "folder to write")->required();
  app.add_option("--calibration", o->calibration,
                 "what to learn from: a text, FILE.h5, FILE.json[:KEY], or 'model': sampled from "
                 "the model itself")
      ->capture_default_str();
  app.add_option("--segments", o->segments, "calibration segments; 0: all there are, or 128");
  app.add_option("--segment-length", o->segment_length,
                 "tokens of a calibration segment; 0: as they are, or the model's context");
  app.add_option("--tokenizer", o->tokenizer, "for texts; default: the model folder's own");
  app.add_option("--evaluate", o->evaluation.sources,
                 "texts or token files to score before and after");
  app.add_option("--evaluate-segments", o->evaluation.segments, "only the first so many; 0: all");
  app.add_option("--evaluate-length", o->evaluation.segment_length,
                 "tokens per segment; 0: the model's context");
  app.add_option("--export", o->format,
                 "packed: integer codes; dense: a Hugging Face folder of dequantized weights")
      ->capture_default_str();
  app.add_option("--export-dtype", o->dense_dtype, "of dense weights: f32, bf16, f16")
      ->capture_default_str();
  app.add_option(
      "--cache", o->cache,
      "folder for activations of the original model, shared by runs with other settings");
  app.add_flag("--resume", o->resume, "go on after the last finished window of an interrupted run");
  app.add_flag("--overwrite", o->overwrite,
               "replace a model folder, or drop an interrupted run, at --output");
  o->loading.add_to(app);
  o->compute.add_to(app);
  o->settings.add_to(app);
  app.footer(footer);
  return [o] {
    if (!already_finished(*o)) QuantizeRun(*o).run();
  };
}

}  // namespace cbq::cli
