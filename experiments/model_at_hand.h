// A model of a run with all that its cells need: tokens, texts, and who runs them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/ablation_options.h"
#include "experiments/plan.h"
#include "experiments/token_source.h"
#include "experiments/workbench.h"

namespace cbq {

/// What all models of a run share.
struct RunSurroundings {
  const AblationOptions& options;
  Device device = Device::cpu();
  TaskSet tasks;
  std::string version;
  std::function<void(const std::string&)> say;
  std::function<bool()> interrupted;
};

class ModelAtHand {
 public:
  /// Reads the model once, for its digest, and keeps no weights. Throws for a folder that is no
  /// model, tokens that are not of its vocabulary, segments that its context does not hold.
  ModelAtHand(const std::filesystem::path& folder, const RunSurroundings& surroundings);

  /// For make_plan.
  PlanModel plan_model() const;
  /// Footnotes of its tables: size and hash, calibration, texts.
  const std::vector<std::string>& lines() const { return lines_; }
  const std::vector<std::string>& text_names() const { return text_names_; }
  /// Of each text the documents of its segments.
  std::vector<std::vector<int64_t>> documents() const;
  /// The model as it was opened, its tokens and its folders.
  const WorkbenchConfig& bench() const { return bench_; }
  const ModelConfig& config() const { return config_; }
  const TokenSet& calibration() const { return bench_.calibration; }
  int64_t test_tokens() const;
  int64_t parameter_bytes() const { return parameter_bytes_; }
  /// Of the original activations' file.
  int64_t activation_bytes() const { return activation_bytes_; }

  /// A CellRunner. The model is in memory only while its cell is computed.
  CellResult run(const Cell& cell, const std::function<void(double)>& progress);
  /// Seconds of one forward pass over the first calibration segment, per token, block and weight of
  /// a block: the unit of Cell::cost.
  double seconds_per_cost();

 private:
  void set_threads() const;
  void load_texts(const TokenContext& tokens, int64_t length);

  std::filesystem::path folder_;
  const AblationOptions& options_;
  ModelConfig config_;
  WorkbenchConfig bench_;
  std::unique_ptr<Workbench> workbench_;
  CellInputs inputs_;
  LoadWatch loading_;
  RunPlace place_;
  int64_t block_weights_ = 0, parameter_bytes_ = 0, activation_bytes_ = 0;
  std::vector<std::string> lines_, text_names_;
};

}  // namespace cbq
