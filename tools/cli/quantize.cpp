// cbq quantize: a model folder -> a folder of integers that evaluates the same.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include "cbq/global_transforms.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/resume.h"
#include "experiments/progress.h"
#include "kernels/ops.h"
#include "nn/json.h"
#include "nn/output_lock.h"
#include "nn/sealed_files.h"
#include "tensor/device_memory.h"
#include "tensor/program_version.h"
#include "tools/cli/companions.h"
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

/// The folder of the state of an interrupted run.
fs::path resume_folder_of(const Options& o) {
  fs::path path = fs::path(o.output).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path += ".resume";
}

/// Files of the folder that are no part of the result, but about it.
bool is_about_the_run(const std::string& name) {
  return name == "recipe.json" || name == "report.json" || name == "log.txt";
}

/// {name: {"bytes", "crc32"}} of all files of a result.
json files_of(const fs::path& folder, const Watch& watch) {
  std::vector<std::string> names;
  int64_t total = 0, done = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().lexically_relative(folder).string();
    if (is_about_the_run(name)) continue;
    names.push_back(name);
    total += static_cast<int64_t>(entry.file_size());
  }
  json files = json::object();
  for (const std::string& name : names) {
    const auto bytes = static_cast<int64_t>(fs::file_size(folder / name));
    const std::string checksum = checksum_of_file(folder / name, [&](int64_t read) {
      watch.step(done + read, total, "computing checksums of the result");
    });
    done += bytes;
    files[name] = {{"bytes", bytes}, {"crc32", checksum}};
  }
  return files;
}

/// Which ids were scored, by the name of their source.
json digests_of(const std::vector<NamedTokens>& sets) {
  json all = json::object();
  for (const NamedTokens& set : sets) all[set.name] = digest_of(set.tokens.segments);
  return all;
}

/// What a command asks for: the model, the tokens, and which run they make. Lines go to `say`.
class Job {
 public:
  Job(const Options& options, Watch watch, std::function<void(const std::string&)> say)
      : settings(options.settings.resolve()),
        device(options.compute.apply()),
        o_(options),
        watch_(std::move(watch)),
        say_(std::move(say)) {}

  /// Opens the model, rewrites it where the settings ask for that, reads all its parameters once,
  /// and the tokens to score.
  void load();
  void load_calibration();
  bool needs_calibration() const;
  /// Whether calibration tokens have to be made by the model first, which takes long.
  bool samples() const { return needs_calibration() && o_.calibration == "model"; }
  /// What sampled tokens depend on beside the model.
  json sampling_request() const;
  /// Of the model as load() left it: to be asked for before it is quantized.
  JobIdentity identity() const;

  Settings settings;
  Device device;
  std::unique_ptr<Transformer> model;
  std::vector<std::string> notes;  // of transforms of the whole model
  std::string model_digest;
  TokenSet calibration;
  std::vector<NamedTokens> evaluation;

 private:
  void check_parameters();
  TokenContext tokens() const {
    return {model.get(), o_.tokenizer.empty() ? o_.model : o_.tokenizer};
  }
  const Options& o_;
  Watch watch_;
  std::function<void(const std::string&)> say_;
};

/// One invocation of the command.
class QuantizeRun {
 public:
  explicit QuantizeRun(const Options& options)
      : o_(options),
        folder_(o_.output, o_.overwrite),
        log_(folder_.partial() / "log.txt"),
        job_(options, watch(), [this](const std::string& line) { log_.line(line); }) {}

  void run();

 private:
  void steps();
  bool drop_empty_state() const;
  Watch watch() {
    return {interrupted, [this](int64_t done, int64_t total, const std::string& what) {
              log_.progress().update(done, total, what);
            }};
  }
  RunResult reconstruct();
  RunResult quantize_blockwise(std::shared_ptr<ActivationCache> original, RunHooks hooks);
  void save(const RunResult& result, const std::vector<Score>& before,
            const std::vector<Score>& after);
  fs::path resume_folder() const { return resume_folder_of(o_); }
  json recipe();
  /// Where blocks are written that do not stay in memory: the result, or what becomes it.
  fs::path packed_folder() const {
    return o_.format == "packed" ? folder_.partial() : folder_.partial() / "packed";
  }

  const Options& o_;
  OutputFolder folder_;
  Log log_;
  Job job_;
  JobIdentity identity_;
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
  if (s.rotation != "none") text += ", rotation " + s.rotation;
  if (s.preprocess != "none") text += ", " + s.preprocess;
  if (s.reconstruct == "none") return text + ", nearest rounding";
  text += s.schedule.empty()
              ? fmt::format(", {}: windows of {}, overlap {}", s.rounding, s.window, s.overlap)
              : fmt::format(", {}: windows {}", s.rounding, s.schedule);
  return text + fmt::format(", {} epochs, {} segments a step, rate {:g}", s.epochs, s.batch,
                            s.rounding_rate());
}

void QuantizeRun::steps() {
  log_.line(summary(job_.settings));
  job_.load();
  job_.load_calibration();
  identity_ = job_.identity();
  const auto score = [this] { return evaluate(*job_.model, job_.evaluation, o_.evaluation.batch); };
  const std::vector<Score> before = score();
  print(std::cout, "original", before);
  const RunResult result = reconstruct();
  const std::vector<Score> after = score();
  print(std::cout, "quantized", after);
  save(result, before, after);
  std::error_code ignored;
  fs::remove_all(resume_folder(), ignored);
  std::cout << o_.output << ": " << fmt::format("{:.1f}", result.seconds)
            << " s of reconstruction, peak "
            << fmt::format("{:.1f}", static_cast<double>(result.peak_bytes) / (1 << 20))
            << " MiB of tensors in a window; " << peak_memory_text(job_.device) << "\n";
}

void Job::load() {
  check(o_.format == "packed" || o_.format == "dense", "--export: unknown '", o_.format,
        "'; known: packed, dense");
  if (is_quantized_folder(o_.model)) {
    fail(o_.model, " is quantized already; give the floating-point model");
  }
  std::error_code absent;
  check(!fs::equivalent(o_.model, o_.output, absent),
        "--output is the model's own folder, which --overwrite would destroy; name another");
  check(
      o_.format == "packed" || settings.abits >= float_bits,
      "--export dense stores weights alone, so the quantization of activations would be lost; use "
      "--export packed, or --abits 16");
  validate(settings, ModelConfig::load(o_.model).num_layers);
  model = o_.loading.open(
      o_.model, o_.compute.dtype_for(o_.model, device), device, say_,
      samples() ? "--calibration model, which samples from the model token by token," : "");
  notes = apply_global_transforms(*model, settings);
  check_parameters();
  evaluation = load_evaluation(o_.evaluation, tokens());
}

void Job::load_calibration() {
  if (needs_calibration()) {
    say_("calibration: " + o_.calibration);
    calibration =
        calibration_tokens(o_.calibration, tokens(), o_.segments, o_.segment_length, settings.seed);
  } else {
    calibration.segments = {{0}};
    calibration.protocol = "none needed";
  }
}

/// Nearest rounding with ranges from the data at hand looks at no calibration data.
bool Job::needs_calibration() const {
  const bool observes = settings.abits < float_bits && !settings.act_dynamic;
  return settings.reconstruct != "none" || settings.preprocess != "none" || observes;
}

json Job::sampling_request() const {
  if (!samples()) return nullptr;
  return {{"segments", o_.segments}, {"tokens", o_.segment_length}, {"seed", settings.seed}};
}

/// Hashes every parameter, and refuses those that no method can repair.
void Job::check_parameters() {
  const auto total = parameter_bytes(*model);
  int64_t done = 0;
  model_digest = digest_of(*model, [&](const std::string& path, const Tensor& value) {
    watch_.step(done, total, "reading the model");
    done += value.bytes();
    if (kernels::has_non_finite(value)) {
      fail(o_.model, ": ", path, " holds NaN or infinity; the checkpoint is broken, fetch or ",
           "train it again");
    }
  });
}

JobIdentity Job::identity() const {
  JobIdentity identity = identity_of_run(*model, model_digest, calibration.segments, settings);
  identity.export_format = o_.format;
  if (o_.format == "dense") identity.export_dtype = o_.dense_dtype;
  return identity;
}

json QuantizeRun::recipe() {
  const TokenSet& calibration = job_.calibration;
  return {{"cbq_version", program_version()},
          {"identity", identity_.to_json()},
          {"files", files_of(folder_.partial(), watch())},
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
  hooks.preparation = watch().progress;
  hooks.interrupted = interrupted;
  hooks.keep_originals = false;
  hooks.resume_folder = state;
  hooks.model_digest = job_.model_digest;
  std::shared_ptr<ActivationCache> original;
  if (!o_.cache.empty() && job_.settings.reconstruct != "none") {
    original = cache_on_disk(*job_.model, job_.calibration.segments, o_.cache, hooks.say, watch(),
                             job_.model_digest);
  }
  RunResult result = job_.model->on_demand() ? quantize_blockwise(original, hooks)
                                             : quantize(*job_.model, job_.calibration.segments,
                                                        job_.settings, original, hooks);
  result.notes.insert(result.notes.begin(), job_.notes.begin(), job_.notes.end());
  log_.progress().finish();
  return result;
}

/// Finished blocks go to the folder at once, from where the quantized model is opened again.
RunResult QuantizeRun::quantize_blockwise(std::shared_ptr<ActivationCache> original,
                                          RunHooks hooks) {
  QuantizedFolderWriter writer(*job_.model, packed_folder());
  hooks.keep_block = [&](int64_t block) { writer.add_block(block); };
  RunResult result =
      quantize(*job_.model, job_.calibration.segments, job_.settings, std::move(original), hooks);
  writer.finish();
  job_.model =
      open_quantized(packed_folder(), o_.compute.dtype_for(o_.model, job_.device), job_.device);
  return result;
}

void QuantizeRun::save(const RunResult& result, const std::vector<Score>& before,
                       const std::vector<Score>& after) {
  const fs::path& to = folder_.partial();
  const Watch watched = watch();
  const Poll poll = watched.poll_of("writing the result");
  if (o_.format == "dense") {
    save_dense(*job_.model, to, dtype_from_name(o_.dense_dtype), poll);
  } else if (!job_.model->on_demand()) {
    save_quantized(*job_.model, to, poll);
  }
  job_.model = nullptr;  // its files go, unless they are the result
  std::error_code ignored;
  if (packed_folder() != to) fs::remove_all(packed_folder(), ignored);
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
  write_text_atomically(to / "recipe.json", sealed(recipe()).dump(2) + "\n");
  write_text_atomically(to / "report.json", sealed(report).dump(2) + "\n");
  for (const Score& s : after) {
    log_.line(fmt::format("{}: perplexity {:.6f}", s.name, s.result.perplexity()));
  }
  log_.close();
  folder_.publish();
}

// ---- a folder that is finished ------------------------------------------------------------------

/// --resume where the folder is there already. A script may repeat the command until it succeeds,
/// or with further texts to score. Nothing is changed but the scores in report.json.
class FinishedRun {
 public:
  explicit FinishedRun(const Options& options)
      : o_(options),
        folder_(o_.output),
        progress_(std::cerr, stderr_is_terminal()),
        job_(options, watch(), [this](const std::string& line) { progress_.line(line); }) {}

  /// Whether there is something at the output that looks like a result, whole or not.
  static bool applies(const Options& o);
  void run();

 private:
  json read(const char* name) const;
  void check_identity();
  void check_files();
  void drop_left_over_state() const;
  void score();
  Watch watch() {
    return {interrupted, [this](int64_t done, int64_t total, const std::string& what) {
              progress_.update(done, total, what);
            }};
  }
  [[noreturn]] void refuse(const std::string& why) const;

  const Options& o_;
  fs::path folder_;
  Progress progress_;
  Job job_;
  json recipe_;
};

bool FinishedRun::applies(const Options& o) {
  if (!o.resume || o.overwrite) return false;
  std::error_code ignored;
  for (const char* name : {"recipe.json", "report.json", "config.json", "model.safetensors"}) {
    if (fs::exists(fs::path(o.output) / name, ignored)) return true;
  }
  return false;
}

/// Earlier programs wrote neither identities nor checksums.
bool of_an_earlier_program(const fs::path& recipe) {
  try {
    const json object = read_json_file(recipe, size_t{16} << 20);
    return object.is_object() && object.contains("settings_hash") && !object.contains("identity") &&
           !object.contains("checksum");
  } catch (const std::exception&) {
    return false;
  }
}

void FinishedRun::refuse(const std::string& why) const {
  std::error_code ignored;
  const char* state = fs::exists(resume_folder_of(o_), ignored)
                          ? "--resume --overwrite goes on with the interrupted run beside it and "
                            "replaces it at the end; "
                          : "";
  fail(o_.output, why, ". Nothing was changed: ", state,
       "--overwrite makes it anew, another --output leaves it as it is");
}

json FinishedRun::read(const char* name) const {
  std::error_code ignored;
  if (!fs::exists(folder_ / name, ignored)) refuse(concat(" has no ", name));
  try {
    return read_sealed_json(folder_ / name);
  } catch (const DamagedFile& damage) {
    if (of_an_earlier_program(folder_ / name)) {
      refuse(" belongs to another run: it differs in the program's version");
    }
    refuse(concat(": ", damage.what()));
  }
}

void FinishedRun::run() {
  catch_interrupts();
  recipe_ = read("recipe.json");
  job_.load();
  check_identity();
  check_files();
  drop_left_over_state();
  score();
}

/// A run that was killed after it had published its result leaves its state behind.
void FinishedRun::drop_left_over_state() const {
  const fs::path state = resume_folder_of(o_);
  std::error_code ignored;
  if (!fs::exists(state, ignored)) return;
  JobIdentity identity = JobIdentity::from_json(recipe_.at("identity"), "recipe.json");
  identity.export_format = identity.export_dtype = "";  // of no concern to windows
  try {
    ResumeFolder(state, identity).load({});
  } catch (const std::runtime_error&) {
    return;  // another run's, which somebody may want to go on with
  }
  fs::remove_all(state, ignored);
}

void FinishedRun::check_identity() {
  const std::string where = (folder_ / "recipe.json").string();
  const JobIdentity there = JobIdentity::from_json(json_at(recipe_, "identity", where), where);
  // Sampling takes hours where comparing takes none: the same model, asked for the same segments by
  // the same program, gives the same ones.
  const json& before = json_find(json_at(recipe_, "calibration", where), "sampling", where);
  JobIdentity here = job_.identity();
  here.calibration = there.calibration;
  here.segments_per_pass = there.segments_per_pass;
  std::vector<std::string> others = differences(there, here);
  if (!job_.samples() || (others.empty() && before != job_.sampling_request())) {
    job_.load_calibration();
    others = differences(there, job_.identity());
  }
  if (!others.empty()) refuse(concat(" belongs to another run: ", text_of(others)));
}

void FinishedRun::check_files() {
  const std::string where = (folder_ / "recipe.json").string();
  const json& files = json_at(recipe_, "files", where);
  for (const auto& [name, unused] : files.items()) {
    std::error_code ignored;
    if (!fs::is_regular_file(folder_ / name, ignored)) refuse(concat(" has no ", name));
  }
  const json now = files_of(folder_, watch());
  for (const auto& [name, file] : files.items()) {
    if (json_find(now, name, where) != file) {
      refuse(concat(": ", (folder_ / name).string(), " is damaged: it is ", now.at(name).dump(),
                    ", it was written as ", file.dump()));
    }
  }
}

/// Scores the sets that report.json does not have, and adds them to it.
void FinishedRun::score() {
  std::optional<OutputLock> lock;  // two commands could lose each other's scores
  if (!job_.evaluation.empty()) lock.emplace(folder_);
  json report = read("report.json");
  const json& known = json_find(report, "evaluated", "report.json");
  const json wanted = digests_of(job_.evaluation);
  std::erase_if(job_.evaluation, [&](const NamedTokens& set) {
    return known.is_object() && json_find(known, set.name, "report.json") == wanted.at(set.name);
  });
  if (job_.evaluation.empty()) {
    progress_.finish();
    std::cout << o_.output << ": finished already, by this very command\n";
    return;
  }
  const auto score = [&](Transformer& model, const char* key) {
    const std::vector<Score> scores = evaluate(model, job_.evaluation, o_.evaluation.batch);
    progress_.finish();
    print(std::cout, key, scores);
    report[key]["results"].update(to_json(scores));
  };
  score(*job_.model, "original");
  job_.model = nullptr;
  job_.model = o_.loading.open(folder_, o_.compute.dtype_for(o_.model, job_.device), job_.device,
                               [this](const std::string& line) { progress_.line(line); });
  score(*job_.model, "quantized");
  report["evaluated"].update(digests_of(job_.evaluation));
  write_text_atomically(folder_ / "report.json", sealed(report).dump(2) + "\n");
  std::cout << o_.output << ": finished already; the scores are added to report.json\n";
}

}  // namespace

Action setup_quantize(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "folder of the floating-point model")->required();
  app.add_option("-o,--output", o->output, "folder to write")->required();
  app.add_option("--calibration", o->calibration,
                 "what to learn from: a text, FILE.h5, FILE.json[:KEY], or 'model': sampled from "
                 "the model itself, one token after the other")
      ->capture_default_str();
  app.add_option("--segments", o->segments, "calibration segments; 0: all there are, or 128");
  app.add_option("--segment-length", o->segment_length,
                 "tokens of a calibration segment; 0: as they are, or the model's context, at most "
                 "2,048 of a text and 512 of 'model'");
  app.add_option("--tokenizer", o->tokenizer, "for texts; default: the model folder's own");
  app.add_option("--evaluate", o->evaluation.sources,
                 "texts or token files to score before and after");
  app.add_option("--evaluate-segments", o->evaluation.segments, "only the first so many; 0: all");
  o->evaluation.length_option = "--evaluate-length";
  app.add_option("--evaluate-length", o->evaluation.segment_length,
                 "tokens per segment; 0: the model's context, at most 2,048");
  app.add_option("--export", o->format,
                 "packed: integer codes; dense: a Hugging Face folder of dequantized weights")
      ->capture_default_str();
  app.add_option("--export-dtype", o->dense_dtype, "of dense weights: f32, bf16, f16")
      ->capture_default_str();
  app.add_option(
      "--cache", o->cache,
      "folder for activations of the original model, shared by runs with other settings");
  app.add_flag("--resume", o->resume,
               "go on after the last finished window of an interrupted run; where the result is "
               "finished, only score what --evaluate adds");
  app.add_flag("--overwrite", o->overwrite,
               "replace a model folder, or drop an interrupted run, at --output");
  o->loading.add_to(app);
  o->compute.add_to(app);
  o->settings.add_to(app);
  app.footer(footer);
  return [o] {
    if (FinishedRun::applies(*o)) {
      FinishedRun(*o).run();
    } else {
      QuantizeRun(*o).run();
    }
  };
}

}  // namespace cbq::cli
