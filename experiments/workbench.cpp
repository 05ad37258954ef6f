#include "experiments/workbench.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cbq/global_transforms.h"
#include "cbq/quantize_blockwise.h"
#include "nn/formats/hash.h"
#include "nn/perplexity.h"
#include "quant/solvers/solver.h"
#include "quant/transforms/local/preprocessor.h"
#include "tensor/runtime/shapes_only.h"

namespace cbq {
namespace {

/// Segments per forward pass of scoring: about 2,048 tokens fill the machine without much memory.
int64_t scored_at_once(size_t length) {
  return std::max<int64_t>(1, 2048 / static_cast<int64_t>(std::max<size_t>(1, length)));
}

/// The mean loss per token, summed batch by batch, so that cells of earlier programs have the same
/// last bits.
double mean_nll_of(const PerplexityResult& result, int64_t batch) {
  double nll = 0.0;
  for (size_t begin = 0; begin < result.segment_nll.size(); begin += static_cast<size_t>(batch)) {
    const size_t end = std::min(result.segment_nll.size(), begin + static_cast<size_t>(batch));
    double part = 0.0;
    for (size_t i = begin; i < end; ++i) part += result.segment_nll[i];
    nll += part;
  }
  return nll / static_cast<double>(result.tokens);
}

/// The smallest value that at least 99 % of `values` do not exceed. A NaN is beyond all others.
double percentile_99(std::vector<float> values) {
  for (float& value : values) {
    if (std::isnan(value)) value = std::numeric_limits<float>::infinity();
  }
  const size_t rank = (values.size() * 99 + 99) / 100;  // ceil(0.99 n), from 1
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(values.begin(), place, values.end());
  return static_cast<double>(*place);
}

/// What a comparison with the original says of every segment, and of all.
void add_divergence(const PerplexityResult& result, TextScore* score) {
  size_t token = 0;
  for (const int64_t tokens : score->segment_tokens) {
    double kl = 0.0;
    int64_t agreed = 0;
    for (const size_t end = token + static_cast<size_t>(tokens); token < end; ++token) {
      kl += static_cast<double>(result.token_kl[token]);
      agreed += result.token_agrees[token] ? 1 : 0;
    }
    score->segment_kl.push_back(kl);
    score->segment_agreed.push_back(agreed);
    score->kl += kl / static_cast<double>(score->tokens);
    score->top1 += static_cast<double>(agreed) / static_cast<double>(score->tokens);
  }
  score->kl_p99 = percentile_99(result.token_kl);
}

double infinite_for_nan(double x) {
  return std::isnan(x) ? std::numeric_limits<double>::infinity() : x;
}

/// Scores `model` on `text` and compares its predictions with those of the original model.
TextScore score_text(Transformer& model, const TokenSet& text, const OriginalStates& states,
                     const OriginalHead& head, const std::function<void()>& poll) {
  const int64_t batch = scored_at_once(text.segments.front().size());
  PerplexityOptions options;
  options.progress = [&](int64_t, int64_t) { poll(); };
  options.reference_logits = [&](int64_t begin, int64_t end) {
    return head.logits(model, states.rows(begin, end, model.device()));
  };
  const PerplexityResult result = perplexity(model, text.segments, batch, options);
  TextScore score;
  score.tokens = result.tokens;
  score.mean_nll = mean_nll_of(result, batch);
  score.segment_nll = result.segment_nll;
  for (const auto& segment : text.segments) {
    score.segment_tokens.push_back(static_cast<int64_t>(segment.size()) - 1);
  }
  add_divergence(result, &score);
  // JSON keeps one kind of "not finite", so that a cell reads back as it was.
  for (double* value : {&score.mean_nll, &score.kl}) *value = infinite_for_nan(*value);
  for (std::vector<double>* values : {&score.segment_nll, &score.segment_kl}) {
    for (double& value : *values) value = infinite_for_nan(value);
  }
  return score;
}

/// Of a cell's time, about this much is reconstruction; the rest is scoring.
constexpr double reconstruction_share = 0.85;

}  // namespace

std::string Workbench::digest(Transformer& model) const {
  return digest_of(model, [this](const std::string&, const Tensor&) {
    watch().poll("reading the model's parameters");
  });
}

CellInputs Workbench::inputs() {
  const std::unique_ptr<Transformer> model = config_.load();
  model_digest_ = digest(*model);
  CellInputs inputs = identity_of_activations(*model, model_digest_, config_.calibration.segments);
  Digest texts;
  for (const TokenSet& text : config_.texts) texts.add(digest_of(text.segments));
  inputs.evaluation = texts.hex();
  return inputs;
}

std::string Workbench::obstacle(const Settings& settings, const ModelConfig& model) {
  std::istringstream stages(settings.preprocess);
  for (std::string stage; std::getline(stages, stage, '+');) {
    const std::string name = stage.substr(0, stage.find(':'));
    if (!preprocessors().has(name)) return concat("pre-processing '", name, "' is not registered");
  }
  const std::string solver = settings.solver.substr(0, settings.solver.find(':'));
  if (solver != "none" && !solvers().has(solver)) {
    return concat("solver '", solver, "' is not registered");
  }
  parse_preprocessors(settings.preprocess);
  validate(settings, model.num_layers);
  const auto transforms = global_transforms_of(settings);
  if (transforms.empty()) return "";
  if (settings.preprocess.starts_with("outliers:")) {
    return "outliers are planted behind the transform of the whole model, which would not see them";
  }
  const ShapesOnly without_memory;
  const auto shapes = make_without_blocks(model, Dtype::f32, Device::cpu());
  shapes->open_blocks(model.num_layers, nullptr);
  for (const auto& transform : transforms) {
    const std::string reason = transform->obstacle(*shapes);
    if (!reason.empty()) return reason;
  }
  return "";
}

const std::shared_ptr<ActivationCache>& Workbench::original(Transformer& model,
                                                            const std::string& digest) {
  std::shared_ptr<ActivationCache>& cache = original_[digest];
  if (!cache) {
    cache = cache_on_disk(model, config_.calibration.segments, config_.folder / "cache",
                          config_.say, watch(), digest);
  }
  return cache;
}

const std::vector<OriginalStates>& Workbench::states(Transformer& model,
                                                     const std::string& digest) {
  std::vector<OriginalStates>& states = states_[digest];
  for (size_t t = states.size(); t < config_.texts.size(); ++t) {
    const auto& segments = config_.texts[t].segments;
    states.emplace_back(model, digest, segments, scored_at_once(segments.front().size()),
                        config_.folder / "cache", config_.say, watch());
  }
  return states;
}

TaskScores Workbench::score_tasks(Transformer& model) const {
  check(config_.tokenizer != nullptr, "accuracies need the model's tokenizer");
  return config_.tasks.score(model, *config_.tokenizer, [&] { watch().poll("scoring tasks"); });
}

void Workbench::quantize_cell(const Cell& cell, std::unique_ptr<Transformer>& model,
                              const std::string& digest, const std::filesystem::path& unfinished,
                              const std::function<void(double)>& progress, CellResult& result) {
  const Settings& settings = cell.settings;
  RunHooks hooks;
  hooks.interrupted = config_.interrupted;
  hooks.say = config_.say;
  std::shared_ptr<ActivationCache> activations;
  const bool needs_original = needs_original_activations(settings);
  if (needs_original || settings.solves()) {
    hooks.resume_folder = unfinished / hex(hash_bytes(cell.identity.to_json().dump()));
    hooks.model_digest = digest;
  }
  if (needs_original) {
    activations = original(*model, digest);
  }
  hooks.progress = [&](int64_t done, int64_t total, const std::string&) {
    if (progress) {
      progress(reconstruction_share * static_cast<double>(done) / static_cast<double>(total));
    }
  };
  const std::filesystem::path packed = unfinished / "packed";
  std::filesystem::remove_all(packed);  // of an interrupted run: its state is beside it
  const RunResult run = quantize_any(model, config_.calibration.segments, settings, activations,
                                     std::move(hooks), packed);
  result.seconds = run.seconds;
  result.peak_bytes = run.peak_bytes;
  result.windows = static_cast<int64_t>(run.windows.size());
  result.notes.insert(result.notes.end(), run.notes.begin(), run.notes.end());
}

CellResult Workbench::run(const Cell& cell, const std::function<void(double)>& progress) {
  std::unique_ptr<Transformer> model = config_.load();
  CellResult result;
  result.notes = apply_global_transforms(*model, cell.settings);
  result.version = config_.version;
  result.device = name_of(model->device());
  // What another version of the program left here is not gone on with, but removed in the end.
  const std::filesystem::path unfinished = config_.folder / "unfinished" / cell.key;
  const std::string its_digest = model->transforms.empty() ? model_digest_ : digest(*model);
  const std::vector<OriginalStates>& original_states = states(*model, its_digest);
  const OriginalHead original_head(*model);
  if (cell.settings.quantizes()) {
    quantize_cell(cell, model, its_digest, unfinished, progress, result);
  }
  const Watch watching = watch();
  for (size_t t = 0; t < config_.texts.size(); ++t) {
    result.texts.push_back(score_text(*model, config_.texts[t], original_states[t], original_head,
                                      watching.poll_of("scoring")));
  }
  if (cell.tasks) result.tasks = score_tasks(*model);
  result.finished = static_cast<int64_t>(std::time(nullptr));
  model = nullptr;  // it may be in the folder that goes now
  std::error_code ignored;
  std::filesystem::remove_all(unfinished, ignored);
  return result;
}

}  // namespace cbq
