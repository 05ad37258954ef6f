#include "cbq/run/preparation.h"

#include <utility>

#include "nn/block_walk.h"

namespace cbq {
namespace {

constexpr const char* preprocessing = "pre-processing the model";

/// While it lives, the blocks are those before pre-processing: their parameters, and the online
/// parts before their linears.
class UnprocessedBlocks {
 public:
  UnprocessedBlocks(Transformer& model, const Window& window, const Unprocessed& before) {
    if (before.parameters.empty()) return;
    for (int64_t b = window.first; b <= window.last(); ++b) {
      model.block(b).visit(model.block_prefix(b), [&](const std::string& path, Var& parameter) {
        parameters_.emplace_back(parameter, parameter.value());
        parameter.set_value(before.parameters.at(path));
      });
    }
    for (const WindowLinear& l : linears_of(model, window)) {
      online_.emplace_back(l.linear, l.linear->online);
      l.linear->online = before.online.at(l.path);
    }
  }
  ~UnprocessedBlocks() {
    for (auto& [parameter, value] : parameters_) parameter.set_value(value);
    for (auto& [linear, online] : online_) linear->online = online;
  }
  UnprocessedBlocks(const UnprocessedBlocks&) = delete;
  UnprocessedBlocks& operator=(const UnprocessedBlocks&) = delete;

 private:
  std::vector<std::pair<Var, Tensor>> parameters_;
  std::vector<std::pair<Linear*, std::shared_ptr<const StoredTransform>>> online_;
};

}  // namespace

Preparation::Preparation(RunContext& run) : run_(run) {
  if (run.settings.preprocess == "none") return;
  if (run.settings.homologous && !run.model.on_demand()) {
    // Stages replace tensors and never write to them, so keeping the old ones costs only what
    // changes.
    for (const auto& [path, parameter] : parameters_of(run.model)) {
      unprocessed_.parameters[path] = parameter.value();
    }
    for (const WindowLinear& l : linears_of(run.model, {0, run.blocks()})) {
      unprocessed_.online[l.path] = l.linear->online;
    }
  }
  context_.weight = run.settings.weight_config("", false);
  context_.weight_of = [this](const std::string& layer) { return configs_.at(layer); };
  context_.activation = run.settings.activation_config();
  context_.seed = run.settings.seed;
  context_.poll = run.watch.poll_of(preprocessing);
  preprocessing_.emplace(run.settings.preprocess, run.model, run.segments, context_);
}

void Preparation::prepare(int64_t end) {
  Transformer& model = run_.model;
  for (; prepared_ < end; ++prepared_) {
    run_.watch.poll("loading blocks");
    model.load_block(prepared_);
    if (!preprocessing_) continue;
    if (!model.on_demand()) run_.watch.step(prepared_, run_.blocks(), preprocessing);
    for (const WindowLinear& l : linears_of(model, {prepared_, 1})) {
      configs_[l.path] = weight_config_of(model, run_.settings, l);
    }
    preprocessing_->apply_to_next_block();
  }
  if (!preprocessing_ || prepared_ < run_.blocks()) return;
  const std::vector<std::string> notes = preprocessing_->notes();
  std::vector<std::string>& all = run_.result.notes;
  all.insert(all.begin(), notes.begin(), notes.end());
  for (const std::string& note : notes) run_.say(note);
  preprocessing_.reset();  // and its streams
}

Tensor Preparation::original_answer(const Window& window) const {
  Transformer& model = run_.model;
  const Poll poll = run_.watch.poll_of("computing the window's second target");
  if (!model.on_demand()) {
    const FloatBlocks original_blocks(model, window);
    const UnprocessedBlocks original_parameters(model, window, unprocessed_);
    return run_blocks(model, window, run_.stream, poll);
  }
  Tensor x = run_.stream;
  for_each_opened_block(model, window.first, window.last() + 1, [&](Block& block, int64_t) {
    x = run_block(block, x, model.device(), poll);
  });
  return x;
}

}  // namespace cbq
