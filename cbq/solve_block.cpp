#include "cbq/solve_block.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>

#include "quant/input_catcher.h"

namespace cbq {
namespace {

WeightQuantizer* weights_of(const Linear& linear) {
  const QuantizedTransform* q = linear.quantizers();
  return q == nullptr ? nullptr : q->weight_quantizer.get();
}

bool is_unsolved(const WeightQuantizer* weights) {
  return weights != nullptr && !weights->hardened() && !weights->started_from_solution();
}

/// Whether both transforms make the same of one input, so that one Hessian serves both layers.
bool quantize_input_equally(const Linear& a, const Linear& b) {
  const auto quantizer = [](const Linear& l) { return l.quantizers()->activation_quantizer.get(); };
  const ActivationQuantizer *one = quantizer(a), *other = quantizer(b);
  if (one == nullptr || other == nullptr) return one == other;
  const auto x = one->snapshot(), y = other->snapshot();  // the configuration is one for all layers
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& p, const auto& q) {
    return p.first == q.first &&
           p.second.template to_vector<double>() == q.second.template to_vector<double>();
  });
}

/// Layers of a group that read the very same numbers.
using Readers = std::vector<NamedLinear>;

std::vector<Readers> unsolved_readers(const std::vector<NamedLinear>& group) {
  std::vector<Readers> all;
  for (const NamedLinear& l : group) {
    if (!is_unsolved(weights_of(*l.linear))) continue;
    const auto readers = std::find_if(all.begin(), all.end(), [&](const Readers& known) {
      return quantize_input_equally(*known.front().linear, *l.linear);
    });
    if (readers == all.end()) {
      all.push_back({l});
    } else {
      readers->push_back(l);
    }
  }
  return all;
}

/// What a set of readers is solved with.
struct Inputs {
  Inputs(int64_t in, bool with_original) : gram(in) {
    if (with_original) difference.emplace(in);
  }
  /// `original` undefined: what the layer read there is not compared, as if it were x.
  void add(const Tensor& x, const Tensor& original) {
    gram.add(x);
    if (difference && original.defined()) difference->add(original, x);
  }

  InputGram gram;
  std::optional<InputDifference> difference;
};

/// Where a pass over one stage stands.
struct StagePass {
  size_t left = 0;  // collectors that have not seen their input yet
  Tensor original;  // the input in the original model, where it is wanted
};

/// Adds what a layer multiplies with to a Hessian. The last collector of a stage ends the pass.
class Collector : public LinearTransform {
 public:
  Collector(std::shared_ptr<LinearTransform> original, Inputs& inputs, StagePass& pass)
      : original_(std::move(original)), inputs_(inputs), pass_(pass) {}
  Var weight(const Var& w) override { return original_->weight(w); }
  Var input(const Var& x) override {
    const Var quantized = original_->input(x);
    inputs_.add(quantized.value(), pass_.original);
    if (--pass_.left == 0) throw InputSeen();
    return quantized;
  }

 private:
  std::shared_ptr<LinearTransform> original_;
  Inputs& inputs_;
  StagePass& pass_;
};

/// The solution, rounded to nearest, with the layer's own quantizer of its input.
class SolvedTransform : public LinearTransform {
 public:
  SolvedTransform(std::shared_ptr<LinearTransform> original, const Tensor& weight)
      : original_(std::move(original)), weight_(weight) {}
  Var weight(const Var&) override { return weight_; }
  Var input(const Var& x) override { return original_->input(x); }
  const FusedInput* fused_input() const override { return original_->fused_input(); }

 private:
  std::shared_ptr<LinearTransform> original_;
  Var weight_;
};

/// Groups that do not read what another one of them writes, so that one pass serves them all: those
/// at the same place within their experts. Each other group is a stage of its own.
using SolveGroups = std::vector<std::vector<NamedLinear>>;
std::vector<SolveGroups> solve_stages(const SolveGroups& groups) {
  constexpr int64_t bytes_of_a_stage = int64_t{1} << 30;  // of Hessians, f64
  std::vector<SolveGroups> stages;
  std::map<int64_t, size_t> places;  // of the next group within an expert
  std::map<size_t, size_t> open;     // by place, the stage that further experts join
  for (const std::vector<NamedLinear>& group : groups) {
    const Linear& linear = *group.front().linear;
    const int64_t in = linear.in_features();
    const auto most = static_cast<size_t>(std::max<int64_t>(1, bytes_of_a_stage / (8 * in * in)));
    if (linear.expert < 0) {
      stages.push_back({group});
      continue;
    }
    const auto [at, is_new] = open.emplace(places[linear.expert]++, stages.size());
    if (!is_new && stages[at->second].size() == most) at->second = stages.size();
    if (at->second == stages.size()) stages.emplace_back();
    stages[at->second].push_back(group);
  }
  return stages;
}

/// The block's transforms are back when it ends, however it ends.
class SavedTransforms {
 public:
  explicit SavedTransforms(Block& block) {
    for (const NamedLinear& l : block.linears()) saved_.emplace_back(l.linear, l.linear->transform);
  }
  ~SavedTransforms() {
    for (auto& [linear, transform] : saved_) linear->transform = transform;
  }
  SavedTransforms(const SavedTransforms&) = delete;
  SavedTransforms& operator=(const SavedTransforms&) = delete;

 private:
  std::vector<std::pair<Linear*, std::shared_ptr<LinearTransform>>> saved_;
};

/// The state of one block while it is solved.
class BlockSolve {
 public:
  /// `original`: the original stream in front of the block, where the solver wants it.
  BlockSolve(Transformer& model, int64_t number, const LayerSolver& solver, const Tensor& inputs,
             const Tensor& original, const Poll& poll)
      : model_(model),
        block_(model.block(number)),
        solver_(solver),
        inputs_(inputs),
        original_(original),
        poll_(poll),
        saved_(block_) {
    report_.block = number;
  }

  /// Solves all groups. The solutions are in effect until this is gone; the quantizers know nothing
  /// of them before finish().
  void solve();
  SolveReport finish();

 private:
  std::vector<Inputs> inputs_of(const std::vector<Readers>& all);
  Tensor original_input(Linear& reader, const Sequence& sequence, int64_t begin, int64_t end);
  void solve_layer(const NamedLinear& layer, const Inputs& inputs);

  struct Solved {
    WeightQuantizer* weights;
    LayerSolution solution;
  };
  Transformer& model_;
  Block& block_;
  const LayerSolver& solver_;
  const Tensor& inputs_;
  const Tensor& original_;
  const Poll& poll_;
  std::vector<Solved> solved_;
  SolveReport report_;
  SavedTransforms saved_;
};

/// What `reader` reads when segments [begin, end) of the original stream pass the block with
/// nothing quantized: [tokens, in].
Tensor BlockSolve::original_input(Linear& reader, const Sequence& sequence, int64_t begin,
                                  int64_t end) {
  const FloatBlocks unquantized(model_, {report_.block, 1});
  const auto catcher = std::make_shared<InputCatcher>();
  reader.transform = catcher;
  const Tensor rows = original_.slice(begin, end).to(model_.device());
  run_until_seen(block_, Var(rows.reshape({sequence.batch * sequence.tokens, rows.size(2)})),
                 sequence);
  return catcher->seen;
}

/// What every set of readers of one stage reads.
std::vector<Inputs> BlockSolve::inputs_of(const std::vector<Readers>& all) {
  const bool with_original = original_.defined();
  std::vector<Inputs> inputs;
  for (const Readers& readers : all) {
    inputs.emplace_back(readers.front().linear->in_features(), with_original);
  }
  StagePass pass;
  std::vector<std::pair<Linear*, std::shared_ptr<LinearTransform>>> watched;
  for (size_t i = 0; i < all.size(); ++i) {
    Linear* linear = all[i].back().linear;  // linears of a group are asked from the last
    watched.emplace_back(linear, linear->transform);
    linear->transform = std::make_shared<Collector>(linear->transform, inputs[i], pass);
  }
  // In the original model other tokens may reach an expert.
  const bool compares = with_original && all.front().front().linear->expert < 0;
  for_each_pass(inputs_, model_.device(), poll_,
                [&](const Var& rows, const Sequence& sequence, int64_t begin, int64_t end) {
                  if (compares) {
                    pass.original =
                        original_input(*all.front().front().linear, sequence, begin, end);
                  }
                  pass.left = all.size();
                  run_until_seen(block_, rows, sequence);
                });
  for (auto& [linear, transform] : watched) linear->transform = transform;
  return inputs;
}

void BlockSolve::solve_layer(const NamedLinear& layer, const Inputs& inputs) {
  if (poll_) poll_();
  const std::string path = model_.block_prefix(report_.block) + layer.name;
  WeightQuantizer* weights = weights_of(*layer.linear);
  LayerProblem problem{path, layer.linear->weight.value(), inputs.gram.value(), weights->config()};
  if (inputs.difference) problem.original = inputs.difference->value();
  LayerSolution solution;
  if (inputs.gram.tokens() > 0) {
    solution = solver_.solve(problem);
  } else {  // an expert that no token reached: there is nothing to make up for
    solution.weight = problem.weight;
    solution.grid = weight_grid(problem.weight, problem.config, path);
  }
  layer.linear->transform = std::make_shared<SolvedTransform>(
      layer.linear->transform, nearest(solution.weight, solution.grid));
  report_.layers.push_back({path, solution.error, solution.nearest_error});
  report_.notes.insert(report_.notes.end(), solution.notes.begin(), solution.notes.end());
  solved_.push_back({weights, std::move(solution)});
}

void BlockSolve::solve() {
  const auto start = std::chrono::steady_clock::now();
  for (const SolveGroups& stage : solve_stages(linears_by_input(block_))) {
    std::vector<Readers> all;
    for (const std::vector<NamedLinear>& group : stage) {
      for (Readers& readers : unsolved_readers(group)) all.push_back(std::move(readers));
    }
    if (all.empty()) continue;
    const std::vector<Inputs> inputs = inputs_of(all);
    for (size_t i = 0; i < all.size(); ++i) {
      for (const NamedLinear& layer : all[i]) solve_layer(layer, inputs[i]);
    }
  }
  if (original_.defined() && block_.expert_count() > 0) {
    report_.notes.push_back(concat("block ", report_.block, ": its experts are solved towards ",
                                   "their output on their own inputs, since in the original model ",
                                   "other tokens may reach them"));
  }
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

SolveReport BlockSolve::finish() {
  for (const Solved& s : solved_) s.weights->start_from(s.solution.weight, s.solution.grid);
  return std::move(report_);
}

bool has_unsolved(Block& block) {
  const std::vector<NamedLinear> all = block.linears();
  return std::any_of(all.begin(), all.end(),
                     [](const NamedLinear& l) { return is_unsolved(weights_of(*l.linear)); });
}

/// The original stream in front of a block, where the solver wants it.
Tensor original_stream(const LayerSolver& solver, int64_t number, const Tensor& inputs,
                       const OriginalStreams& streams) {
  if (!solver.wants_original_inputs()) return {};
  const auto found = streams.find(number);
  check(found != streams.end() && found->second.shape() == inputs.shape(), "solver '",
        solver.name(), "' needs the original stream in front of block ", number, ", of shape ",
        to_string(inputs.shape()));
  return found->second;
}

/// The stream behind a block that later windows go on with, as it stands.
Tensor behind_live_block(Transformer& model, int64_t number, const Tensor& x, const Poll& poll) {
  for (const NamedLinear& l : model.block(number).linears()) {
    // A restored quantizer does not know yet that it was left rounding hard.
    if (WeightQuantizer* weights = weights_of(*l.linear)) weights->set_hard(true);
  }
  const FrozenWeights frozen(model, {number, 1});
  return run_block(model.block(number), x, model.device(), poll);
}

}  // namespace

double SolveReport::mean_error_ratio() const {
  if (layers.empty()) return 1.0;
  double sum = 0.0;
  for (const SolvedLayer& l : layers) {
    sum += l.nearest_error > 0.0 ? l.error / l.nearest_error : 1.0;
  }
  return sum / static_cast<double>(layers.size());
}

std::vector<SolveReport> solve_blocks(Transformer& model, const Window& window,
                                      const LayerSolver& solver, const Tensor& inputs,
                                      const SolveWatch& watch, const OriginalStreams& original) {
  NoGrad none;
  int64_t last = window.last();
  while (last >= window.first && !has_unsolved(model.block(last))) --last;
  std::vector<SolveReport> reports;
  Tensor x = inputs;
  for (int64_t b = window.first; b <= last; ++b) {
    if (!has_unsolved(model.block(b))) {
      x = behind_live_block(model, b, x, watch.poll);
      continue;
    }
    if (watch.begins) watch.begins(b);
    const Tensor original_x = original_stream(solver, b, x, original);
    BlockSolve solve(model, b, solver, x, original_x, watch.poll);
    solve.solve();
    Tensor behind;
    if (b < last) behind = run_block(model.block(b), x, model.device(), watch.poll);
    reports.push_back(solve.finish());
    if (b < last) x = behind;
  }
  return reports;
}

}  // namespace cbq
