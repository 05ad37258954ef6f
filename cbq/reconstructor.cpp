#include "cbq/reconstructor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>

#include "cbq/setting_choices.h"
#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

/// A look at the loss makes the host wait for the device: not at every step.
constexpr int64_t steps_between_looks = 16;
/// Steps of a phase before it is captured: the first makes workspaces and lets the matrix library
/// choose, and none of what the second does is done for the first time.
constexpr int64_t steps_before_capture = 2;
/// A mean loss this many times the one at the start has left the region where steps mean anything.
constexpr double explosion = 1e3;

/// Between two replays a graph's memory is free: for what is gone before the next one.
struct GraphMemory {
  explicit GraphMemory(StepGraph* graph) {
    if (graph != nullptr) use.emplace(graph->memory());
  }
  std::optional<MemoryPool::Use> use;
};

}  // namespace

int64_t steps_per_window(const Settings& settings, int64_t segments) {
  return settings.epochs * ((segments + settings.batch - 1) / settings.batch);
}

// Fisher-Yates on Philox: std::shuffle is left to the implementation, this is the same everywhere.
std::vector<int64_t> segment_order(int64_t segments, uint64_t seed, int64_t window, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(segments));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  const uint64_t stream =
      (uint64_t{1} << 63) | (static_cast<uint64_t>(window) << 32) | static_cast<uint64_t>(epoch);
  for (size_t i = order.size(); i > 1; --i) {
    const uint64_t bits = philox_bits(seed, stream, i);
    std::swap(order[i - 1], order[static_cast<size_t>(bits * i >> 32)]);
  }
  return order;
}

Reconstructor::Reconstructor(Transformer& model, const Settings& settings,
                             const ScheduledWindow& window, int64_t number, WindowData data)
    : model_(model),
      settings_(settings),
      window_(window),
      number_(number),
      regularizer_mean_(regularizer_reduction_from_name(settings.regularizer_reduction) ==
                        RegularizerReduction::mean),
      keeps_last_(kept_parameters_from_name(settings.keep) == KeptParameters::last),
      data_(std::move(data)),
      loss_(loss_config(settings, model.config.hidden_size)),
      total_steps_(steps_per_window(settings, data_.inputs.size(0))),
      feed_(data_, settings.batch, model.device(), stream_place() == StreamPlace::host),
      running_loss_(Tensor::zeros({1}, Dtype::f32, model.device())) {
  report_.window = window.window;
  report_.finishes = window.finishes;
  // "overlap": the last blocks of the window, those it shares with the next one; in the last
  // window, which has no next one, as many.
  const int64_t shared = window.finishes < window.window.count
                             ? window.window.count - window.finishes
                             : std::min(window.window.count, settings.overlap);
  const bool rounds_overlap =
      rounding_blocks_from_name(settings.rounding_blocks) == RoundingBlocks::overlap;
  const int64_t first_rounded =
      rounds_overlap ? window.window.last() - shared + 1 : window.window.first;
  for (WindowLearnable& l : learnables_of(model, window.window)) {
    learners_.push_back({std::move(l.learnable), l.block >= first_rounded});
  }
  choose_variables();
  if (settings.regularizer != 0.0) {
    regularizer_.now = Tensor::zeros({2}, Dtype::f64, model.device());
  }
}

void Reconstructor::choose_variables() {
  std::map<std::string, ParameterGroup> groups;  // by rate
  size_t chosen = 0;
  for (const Learner& l : learners_) {
    for (const LearnedGroup& group : l.learnable->groups()) {
      const bool learn = settings_.learns(group.rate) && (!group.is_rounding || l.rounds);
      for (Var v : group.variables) {
        v.set_requires_grad(learn);
        v.clear_grad();
        if (!learn) continue;
        groups[group.rate].variables.push_back(v);
        ++chosen;
      }
    }
    if (l.rounds) rounding_weights_ += l.learnable->regularized_weights();
  }
  optimizer_ = nullptr;
  if (chosen == 0) return;  // nothing to learn
  std::vector<ParameterGroup> all;
  for (auto& [rate, group] : groups) {
    group.settings.rate = settings_.rate_of(rate);
    all.push_back(std::move(group));
  }
  optimizer_ = make_optimizer(settings_.optimizer, all);
}

void Reconstructor::set_hard(bool hard) {
  // Relaxed weights start at the original ones: where the rounding is not learned, only the hard
  // one means anything.
  for (const Learner& l : learners_) l.learnable->set_hard(hard || !l.rounds);
}

// gamma sum(1 - |2 h - 1|^beta), beta from beta_start to beta_end after the warm-up (AdaRound).
void Reconstructor::set_regularizer(int64_t step) {
  RoundingRegularizer& r = regularizer_;
  r.weight = 0.0;
  const double warmup = settings_.regularizer_warmup * static_cast<double>(total_steps_);
  const double past = static_cast<double>(step) - warmup;
  if (past >= 0.0 && rounding_weights_ > 0) {
    const double t = past / std::max(1.0, static_cast<double>(total_steps_) - warmup);
    r.weight = settings_.regularizer;
    if (regularizer_mean_) r.weight /= static_cast<double>(rounding_weights_);
    r.beta = settings_.beta_start + (settings_.beta_end - settings_.beta_start) * t;
  }
  if (r.now.defined()) kernels::write_values(r.now, {r.weight, r.beta});
  for (const Learner& l : learners_) {
    if (l.rounds) l.learnable->set_regularizer(r);
  }
}

double Reconstructor::evaluate(bool hard) {
  NoGrad none;
  set_hard(hard);
  const GraphMemory memory(graph_.get());
  const FrozenWeights frozen(model_, window_.window);
  const int64_t all = data_.inputs.size(0), tokens = data_.inputs.size(1);
  const int64_t count = settings_.keep_segments > 0 ? std::min(all, settings_.keep_segments) : all;
  const Tensor sum = Tensor::zeros({1}, Dtype::f32, model_.device());
  const int64_t batch = evaluation_batch(settings_.batch, tokens);
  for (int64_t begin = 0; begin < count; begin += batch) {
    if (poll_) poll_();
    const int64_t end = std::min(count, begin + batch);
    const Sequence sequence{end - begin, tokens};
    const Shape rows = {sequence.batch * tokens, data_.inputs.size(2)};
    const auto batch_of = [&](const Tensor& stream) {
      return stream.slice(begin, end).to(model_.device()).reshape(rows);
    };
    Var x(batch_of(data_.inputs));
    for (int64_t b = window_.window.first; b <= window_.window.last(); ++b) {
      x = model_.block(b).forward(x, sequence);
    }
    std::vector<Tensor> targets;
    for (const Tensor& t : data_.targets) targets.push_back(batch_of(t));
    const LossValue loss = reconstruction_loss(x.value(), targets, loss_, false);
    kernels::add_into(sum, kernels::scale(loss.mean, static_cast<double>(sequence.batch)));
  }
  return sum.item() / static_cast<double>(count);
}

void Reconstructor::train_step(int64_t step, const std::vector<int64_t>& segments,
                               const std::vector<int64_t>& next) {
  prepare_step(step, segments);
  run_step();
  feed_.announce(next);
}

void Reconstructor::prepare_step(int64_t step, const std::vector<int64_t>& segments) {
  const double hard_steps = settings_.hard_phase * static_cast<double>(total_steps_);
  hard_ = static_cast<double>(total_steps_ - step) <= hard_steps;
  set_hard(hard_);
  set_regularizer(step);
  feed_.load(segments);
  sequence_ = {static_cast<int64_t>(segments.size()), data_.inputs.size(1)};
  const auto warmup = static_cast<int64_t>(settings_.warmup * static_cast<double>(total_steps_));
  optimizer_->prepare(cosine_annealing(step, total_steps_, settings_.rate_floor, warmup));
}

void Reconstructor::launch_step() {
  Tape tape;
  Var x(feed_.inputs());
  for (int64_t b = window_.window.first; b <= window_.window.last(); ++b) {
    x = model_.block(b).forward(x, sequence_);
  }
  const LossValue loss = reconstruction_loss(x.value(), feed_.targets(), loss_, true);
  tape.backward(x, loss.gradient);
  optimizer_->apply();
  kernels::add_into(running_loss_, loss.mean);
}

void Reconstructor::run_step() {
  ++running_steps_;
  // A last batch of fewer segments has other shapes, and comes once per epoch.
  const bool direct = sequence_.batch != settings_.batch || !StepGraph::wanted(model_.device());
  if (direct || capture_failed_) {
    const GraphMemory memory(graph_.get());
    return launch_step();
  }
  if (!graph_ || graph_hard_ != hard_) {
    graph_ = nullptr;  // first: two would need twice the memory
    graph_ = std::make_unique<StepGraph>(model_.device());
    graph_hard_ = hard_;
    warm_ups_ = 0;
  }
  if (!graph_->captured()) {
    const auto launch = [this] { launch_step(); };
    if (warm_ups_++ < steps_before_capture) return graph_->warm_up(launch);
    if (!graph_->capture(launch)) {
      notice_once(concat("steps run launch by launch, not as a CUDA graph: ", graph_->trouble()));
      capture_failed_ = true;
      optimizer_->clear_gradients();
      graph_ = nullptr;
      return launch_step();
    }
  }
  graph_->replay();
}

double Reconstructor::take_mean_loss() {
  if (running_steps_ == 0) return 0.0;
  const double mean = running_loss_.item() / static_cast<double>(running_steps_);
  running_loss_.fill_zero();
  running_steps_ = 0;
  return mean;
}

bool Reconstructor::healthy(int64_t step) {
  if (running_steps_ == 0) return true;
  const double mean = take_mean_loss();
  const char* what = !std::isfinite(mean) ? "became NaN or infinite"
                     : mean > explosion * std::max(report_.loss_before, 1e-9) ? "exploded"
                                                                              : nullptr;
  if (what == nullptr) return true;
  report_.trouble = concat("the loss ", what, " (", mean, " per token, at the start ",
                           report_.loss_before, ") by step ", step, " of ", total_steps_,
                           "; stopped and restored the parameters of epoch ", report_.best_epoch,
                           "; lower the learning rates");
  return false;
}

void Reconstructor::keep_if_better(int64_t epoch) {
  const double loss = evaluate(true);
  if (epoch == 0) report_.loss_before = loss;
  const bool better = epoch == 0 || loss < best_loss_ || keeps_last_;
  if (!better || !std::isfinite(loss)) return;
  best_ = snapshot();
  best_loss_ = loss;
  report_.best_epoch = epoch;
}

bool Reconstructor::train_epoch(int64_t epoch, const std::function<void(int64_t)>& after_step) {
  const std::vector<int64_t> order =
      segment_order(data_.inputs.size(0), settings_.seed, number_, epoch);
  for (size_t begin = 0; begin < order.size(); begin += static_cast<size_t>(settings_.batch)) {
    const size_t end = std::min(order.size(), begin + static_cast<size_t>(settings_.batch));
    const size_t after = std::min(order.size(), end + static_cast<size_t>(settings_.batch));
    const auto at = [&](size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
    train_step(report_.steps++, std::vector<int64_t>(at(begin), at(end)),
               std::vector<int64_t>(at(end), at(after)));
    if (after_step) after_step(report_.steps);
    if (report_.steps % steps_between_looks == 0 && !healthy(report_.steps)) return false;
  }
  return healthy(report_.steps);
}

WindowReport Reconstructor::run(const std::function<void(int64_t)>& after_step) {
  const auto start = std::chrono::steady_clock::now();
  keep_if_better(0);
  check(!best_.empty() || learners_.empty(), "window ", window_.window.first, "-",
        window_.window.last(), ": the loss is ", report_.loss_before,
        " before the first step; the model or the calibration data hold NaN or infinity");
  for (int64_t epoch = 1; optimizer_ && epoch <= settings_.epochs; ++epoch) {
    try {
      if (!train_epoch(epoch, after_step)) break;
      keep_if_better(epoch);
    } catch (const NonFiniteError& error) {
      report_.trouble = concat(error.what(), " at step ", report_.steps,
                               "; stopped and restored the parameters of epoch ",
                               report_.best_epoch, "; lower the learning rates");
      break;
    }
  }
  const bool relaxes = rounding_schemes().make(settings_.rounding)->relaxes();
  report_.loss_relaxed = relaxes && report_.trouble.empty() ? evaluate(false) : best_loss_;
  restore(best_);
  set_hard(true);
  report_.loss_hard = best_loss_;
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report_;
}

Reconstructor::Snapshot Reconstructor::snapshot() const {
  Snapshot all;
  for (const Learner& l : learners_) all.push_back(l.learnable->snapshot());
  return all;
}

void Reconstructor::restore(const Snapshot& values) {
  graph_ = nullptr;  // a quantizer may replace what it keeps on the device
  for (size_t i = 0; i < learners_.size(); ++i) learners_[i].learnable->restore(values.at(i));
}

}  // namespace cbq
