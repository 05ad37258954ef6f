#include "cbq/pipeline.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "cbq/global_transforms.h"
#include "cbq/quantizers.h"
#include "cbq/resume.h"
#include "cbq/solve_block.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq {

void remove_quantizers(Transformer& model) {
  for (int64_t b = 0; b < model.block_count(); ++b) {
    if (!model.is_loaded(b)) continue;
    for (const NamedLinear& l : model.block(b).linears()) l.linear->transform = nullptr;
    model.block(b).attention_transform = nullptr;
  }
}

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string name_of(const Window& w) {
  return w.count == 1 ? concat("block ", w.first) : concat("blocks ", w.first, "-", w.last());
}

constexpr const char* preprocessing = "pre-processing the model";
constexpr const char* rounding = "rounding to nearest";

using Parameters = std::map<std::string, Tensor>;

/// While it lives, the blocks' parameters have other values (those before pre-processing).
class ParameterSwap {
 public:
  ParameterSwap(Transformer& model, const Window& window, const Parameters& others) {
    if (others.empty()) return;
    for (int64_t b = window.first; b <= window.last(); ++b) {
      model.block(b).visit(model.block_prefix(b), [&](const std::string& path, Var& parameter) {
        saved_.emplace_back(parameter, parameter.value());
        parameter.set_value(others.at(path));
      });
    }
  }
  ~ParameterSwap() {
    for (auto& [parameter, value] : saved_) parameter.set_value(value);
  }
  ParameterSwap(const ParameterSwap&) = delete;
  ParameterSwap& operator=(const ParameterSwap&) = delete;

 private:
  std::vector<std::pair<Var, Tensor>> saved_;
};

/// One call of quantize().
class Run {
 public:
  Run(Transformer& model, const Segments& segments, const Settings& settings,
      std::shared_ptr<ActivationCache> original, const RunHooks& hooks)
      : model_(model),
        segments_(segments),
        settings_(settings),
        hooks_(hooks),
        original_(std::move(original)),
        watch_{hooks.interrupted, hooks.preparation},
        count_(static_cast<int64_t>(segments.size())),
        schedule_(schedule_of(settings, model.block_count())) {
    if (settings.solves()) solver_ = parse_solver(settings.solver);
  }

  RunResult quantize();

 private:
  JobIdentity identity_of_this();
  void start_preprocessing();
  void prepare(int64_t end);
  void attach(const Window& window, const std::function<void(int64_t block)>& solving);
  void round_only(const ResumeFolder& folder);
  void reconstruct(const ResumeFolder& folder);
  int64_t resume(const ResumeFolder& folder);
  void reconstruct_window(int64_t number, const ResumeFolder& folder);
  Tensor original_answer(const Window& window);
  void tell(const WindowReport& report);
  void finish(const ScheduledWindow& scheduled, const ResumeFolder& folder);
  void save(int64_t touched, const ResumeFolder& folder);
  void keep(int64_t block);
  void finished_with(int64_t block);
  void polish_model();
  void after_step(int64_t number, int64_t step) const;
  void show(int64_t number, int64_t step, const std::string& what) const;
  void say(const std::string& line) const {
    if (hooks_.say) hooks_.say(line);
  }

  Transformer& model_;
  const Segments& segments_;
  const Settings& settings_;
  const RunHooks& hooks_;
  std::shared_ptr<ActivationCache> original_;
  Watch watch_;  // of what is no reconstruction
  int64_t count_;
  std::vector<ScheduledWindow> schedule_;
  Parameters unprocessed_;  // of all blocks, kept where the homologous term needs them
  std::map<std::string, WeightConfig> configs_;  // of prepared layers
  PreprocessContext context_;
  std::optional<Preprocessing> preprocessing_;  // of blocks to come
  int64_t prepared_ = 0;                 // blocks that are (or were) in memory, pre-processed
  std::unique_ptr<LayerSolver> solver_;  // none: nothing is solved
  std::vector<std::string> solver_notes_;
  Tensor stream_;         // quantized stream behind the finished blocks
  int64_t finished_ = 0;  // blocks
  RunResult result_;
};

RunResult Run::quantize() {
  const bool reconstructs = settings_.reconstruct != "none";
  const bool whole = !model_.on_demand();
  // The identity is that of the model before anything is done to it.
  std::optional<JobIdentity> identity;
  if ((reconstructs || solver_) && !hooks_.resume_folder.empty()) identity = identity_of_this();
  const auto folder = [&] {
    return identity ? ResumeFolder(hooks_.resume_folder, *identity) : ResumeFolder();
  };
  if ((reconstructs || settings_.polishes()) && whole && !original_) {
    original_ = cache_in_memory(model_, segments_, watch_);
  }
  const auto start = std::chrono::steady_clock::now();
  reset_peak(model_.device());
  start_preprocessing();
  if (whole) prepare(model_.block_count());
  if (reconstructs) {
    const double preprocessing = seconds_since(start);
    reconstruct(folder());
    polish_model();
    result_.seconds = preprocessing + (result_.polish ? result_.polish->seconds : 0.0);
    for (const WindowReport& r : result_.windows) {
      result_.seconds += r.seconds;
      result_.peak_bytes = std::max(result_.peak_bytes, r.peak_bytes);
    }
  } else {
    round_only(folder());
    polish_model();
    result_.seconds = seconds_since(start);
    result_.peak_bytes = memory_statistics(model_.device()).peak_bytes;
  }
  return std::move(result_);
}

JobIdentity Run::identity_of_this() {
  std::string digest = hooks_.model_digest;
  if (digest.empty()) {
    digest = digest_of(model_, [this](const std::string&, const Tensor&) {
      watch_.poll("reading the model's parameters");
    });
  }
  return identity_of_run(model_, digest, segments_, settings_);
}

void Run::start_preprocessing() {
  if (settings_.preprocess == "none") return;
  if (settings_.homologous && !model_.on_demand()) {
    // Stages replace tensors and never write to them, so keeping the old ones costs only what
    // changes.
    for (const auto& [path, parameter] : parameters_of(model_)) {
      unprocessed_[path] = parameter.value();
    }
  }
  context_.weight = settings_.weight_config("", false);
  context_.weight_of = [this](const std::string& layer) { return configs_.at(layer); };
  context_.activation = settings_.activation_config();
  context_.seed = settings_.seed;
  context_.poll = watch_.poll_of(preprocessing);
  preprocessing_.emplace(settings_.preprocess, model_, segments_, context_);
}

/// Brings the blocks before `end` into memory and through pre-processing: each once, in order.
void Run::prepare(int64_t end) {
  for (; prepared_ < end; ++prepared_) {
    watch_.poll("loading blocks");
    model_.load_block(prepared_);
    if (!preprocessing_) continue;
    if (!model_.on_demand()) watch_.step(prepared_, model_.block_count(), preprocessing);
    for (const WindowLinear& l : linears_of(model_, {prepared_, 1})) {
      configs_[l.path] = weight_config_of(model_, settings_, l);
    }
    preprocessing_->apply_to_next_block();
  }
  if (!preprocessing_ || prepared_ < model_.block_count()) return;
  const std::vector<std::string> notes = preprocessing_->notes();
  result_.notes.insert(result_.notes.begin(), notes.begin(), notes.end());
  for (const std::string& note : notes) say(note);
  preprocessing_.reset();  // and its streams
}

/// Gives the window's blocks their quantizers, and those that are new their solutions. `solving` is
/// told which block a solver begins with.
void Run::attach(const Window& window, const std::function<void(int64_t block)>& solving) {
  attach_quantizers(model_, window, settings_, stream_, context_.activation_clip,
                    watch_.poll_of("preparing a window's quantizers"));
  if (!solver_) return;
  const SolveWatch watch{watch_.poll_of("solving a block's layers"), solving};
  for (const SolveReport& report : solve_blocks(model_, window, *solver_, stream_, watch)) {
    for (const std::string& note : report.notes) {
      solver_notes_.push_back(note);
      result_.notes.push_back(note);
      say(note);
    }
    if (hooks_.solved) hooks_.solved(report);
  }
}

/// Block by block, nothing is learned: grids, the solver where there is one, and nearest rounding.
/// The stream moves only where somebody reads it.
void Run::round_only(const ResumeFolder& folder) {
  const bool observes = settings_.abits < float_bits && !settings_.act_dynamic;
  const std::string doing = solver_ ? "solving the layers, " + solver_->name() : rounding;
  if (observes || solver_) {
    stream_ = embed_segments(model_, segments_, watch_.poll_of(doing));
  }
  resume(folder);
  if (settings_.polishes() && !original_) {
    original_ =
        cache_on_the_way(model_, segments_, {model_.block_count()}, {hooks_.interrupted, {}});
  }
  while (finished_ < model_.block_count()) {
    watch_.step(finished_, model_.block_count(), doing);
    prepare(finished_ + 1);
    attach({finished_, 1}, {});
    finish({{finished_, 1}, 1}, folder);
    save(finished_, folder);
  }
  watch_.step(model_.block_count(), model_.block_count(), doing);
}

/// A block is finished, unless the whole model is polished at the end.
void Run::finished_with(int64_t block) {
  if (!settings_.polishes()) return keep(block);
  if (!hooks_.keep_originals || model_.on_demand()) drop_originals(model_, {block, 1});
}

void Run::polish_model() {
  if (!settings_.polishes()) return;
  const PolishReport report = polish(model_, segments_, *original_, settings_, watch_);
  result_.polish = report;
  result_.notes.push_back(concat("polish: KL(original || quantized) on ", report.held_out,
                                 " held-out segments ", report.before, " -> ", report.after,
                                 report.kept ? "" : "; no gain, undone"));
  say(result_.notes.back());
  for (int64_t b = 0; b < model_.block_count(); ++b) keep(b);
}

/// A finished block leaves the run, and the memory where it can be had back.
void Run::keep(int64_t block) {
  if (hooks_.keep_block) hooks_.keep_block(block);
  if (model_.on_demand()) {
    model_.release_block(block);
  } else if (!hooks_.keep_originals) {
    drop_originals(model_, {block, 1});
  }
}

void Run::reconstruct(const ResumeFolder& folder) {
  stream_ = embed_segments(model_, segments_, watch_.poll_of("embedding the segments"));
  const auto windows = static_cast<int64_t>(schedule_.size());
  const int64_t first = resume(folder);
  if (!original_) {
    std::vector<int64_t> boundaries;
    for (int64_t i = first; i < windows; ++i) {
      boundaries.push_back(schedule_[static_cast<size_t>(i)].window.last() + 1);
    }
    if (settings_.polishes()) boundaries.push_back(model_.block_count());
    original_ = cache_on_the_way(model_, segments_, boundaries, {hooks_.interrupted, {}});
  }
  for (int64_t i = first; i < windows; ++i) reconstruct_window(i, folder);
}

/// Brings model and stream to where an earlier run stopped; the number of the next window.
int64_t Run::resume(const ResumeFolder& folder) {
  std::optional<RunState> state = folder.load(hooks_.say);
  if (!state) return 0;
  for (int64_t b = 0; b < state->finished; ++b) {
    watch_.step(b, state->finished, "restoring the finished blocks");
    prepare(b + 1);
    attach_quantizers(model_, {b, 1}, settings_, Tensor());
    restore_quantizer_state(model_, {b, 1}, folder.load_block(b));
    finished_with(b);
  }
  stream_ = Tensor();  // its place is free for the saved one
  stream_ = place_stream(state->stream, model_.device());
  finished_ = state->finished;
  int64_t touched = finished_;  // blocks that have quantizers
  for (int64_t i = 0; i < state->windows; ++i) {
    touched = std::max(touched, schedule_[static_cast<size_t>(i)].window.last() + 1);
  }
  if (touched > finished_) {
    const Window live{finished_, touched - finished_};
    prepare(touched);
    attach_quantizers(model_, live, settings_, stream_, context_.activation_clip);
    restore_quantizer_state(model_, live, state->live);
  }
  result_.windows = std::move(state->reports);
  for (const WindowReport& report : result_.windows) tell(report);
  solver_notes_ = std::move(state->solver_notes);
  result_.notes.insert(result_.notes.end(), solver_notes_.begin(), solver_notes_.end());
  const std::string blocks = concat(finished_, " blocks finished");
  say(settings_.reconstruct == "none" ? concat("resumed: ", blocks)
                                      : concat("resumed after window ", state->windows, " of ",
                                               schedule_.size(), " (", blocks, ")"));
  return state->windows;
}

/// What the window's original blocks make of the quantized stream.
Tensor Run::original_answer(const Window& window) {
  const Poll poll = watch_.poll_of("computing the window's second target");
  if (!model_.on_demand()) {
    const FloatBlocks original_blocks(model_, window);
    const ParameterSwap original_parameters(model_, window, unprocessed_);
    return run_blocks(model_, window, stream_, poll);
  }
  Tensor x = stream_;
  for (int64_t b = window.first; b <= window.last(); ++b) {
    x = run_block(*model_.fetch_block(b), x, model_.device(), poll);
  }
  return x;
}

void Run::reconstruct_window(int64_t number, const ResumeFolder& folder) {
  const ScheduledWindow& scheduled = schedule_[static_cast<size_t>(number)];
  const Window& window = scheduled.window;
  reset_peak(model_.device());
  // Both may fetch blocks, so they come before the window's own are in memory.
  WindowData data{stream_, {original_->get(window.last() + 1, 0, count_)}};
  const auto start = std::chrono::steady_clock::now();
  if (settings_.homologous) data.targets.push_back(original_answer(window));
  prepare(window.last() + 1);
  attach(window, [&](int64_t block) { show(number, 0, concat("solving block ", block)); });
  WindowReport report;
  {
    Reconstructor reconstructor(model_, settings_, scheduled, number, std::move(data));
    reconstructor.set_poll(watch_.poll_of("evaluating a window"));
    report = reconstructor.run([&](int64_t step) { after_step(number, step); });
  }
  finish(scheduled, folder);
  report.seconds = seconds_since(start);
  report.peak_bytes = memory_statistics(model_.device()).peak_bytes;
  tell(report);
  result_.windows.push_back(report);
  save(window.last() + 1, folder);
}

/// What a later run needs to go on from here; blocks before `touched` have quantizers.
void Run::save(int64_t touched, const ResumeFolder& folder) {
  if (!folder.enabled()) return;
  RunState state;
  state.finished = finished_;
  state.stream = stream_;
  if (touched > finished_) state.live = quantizer_state(model_, {finished_, touched - finished_});
  state.reports = result_.windows;
  state.solver_notes = solver_notes_;
  folder.save(state);
}

void Run::tell(const WindowReport& report) {
  if (hooks_.window) hooks_.window(report);
  if (report.trouble.empty()) return;
  result_.notes.push_back(concat(name_of(report.window), ": ", report.trouble));
  say(result_.notes.back());
}

/// Hardens the window's finishing blocks and moves the quantized stream past them.
void Run::finish(const ScheduledWindow& scheduled, const ResumeFolder& folder) {
  if (scheduled.finishes == 0) return;
  const Window done{finished_, scheduled.finishes};
  harden_blocks(model_, done);
  for (int64_t b = done.first; b <= done.last() && folder.enabled(); ++b) {
    folder.save_block(b, quantizer_state(model_, {b, 1}));
  }
  if (stream_.defined()) {
    stream_ =
        run_blocks(model_, done, stream_, watch_.poll_of("moving the stream past finished blocks"));
  }
  finished_ += scheduled.finishes;
  for (int64_t b = done.first; b <= done.last(); ++b) finished_with(b);
}

/// Progress of the whole run: `step` steps of window `number` are done.
void Run::show(int64_t number, int64_t step, const std::string& what) const {
  const int64_t per_window = steps_per_window(settings_, count_);
  if (!hooks_.progress || per_window == 0) return;
  hooks_.progress(number * per_window + step, static_cast<int64_t>(schedule_.size()) * per_window,
                  what);
}

void Run::after_step(int64_t number, int64_t step) const {
  show(number, step, name_of(schedule_[static_cast<size_t>(number)].window));
  if (hooks_.interrupted && hooks_.interrupted()) {
    throw Interrupted(concat("interrupted in window ", number + 1, " of ", schedule_.size()));
  }
}

}  // namespace

RunResult quantize(Transformer& model, const Segments& segments, const Settings& settings,
                   std::shared_ptr<ActivationCache> original, const RunHooks& hooks) {
  validate(settings, model.block_count());
  check_global_transforms(model, settings);
  check_segments(model, segments);
  check(model.dtype() != Dtype::f16,
        "quantize: the model computes in f16; weights are quantized in ",
        "f32, bf16 or f64: load it in one of these");
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
  return Run(model, segments, settings, std::move(original), hooks).quantize();
}

}  // namespace cbq
