// The real runner of cells: a fresh model for each, quantized on the calibration segments and
// scored on the test texts.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cbq/activation_cache.h"
#include "experiments/cell.h"
#include "experiments/original_states.h"
#include "nn/text/tokens.h"

namespace cbq {

struct WorkbenchConfig {
  /// The untouched model. Where its blocks are loaded on demand, cells are quantized and scored
  /// block by block; their numbers are the same, seconds and memory those of that way.
  std::function<std::unique_ptr<Transformer>()> load;
  TokenSet calibration;
  std::vector<TokenSet> texts;
  /// For cells that ask for accuracies; their requests are encoded by `tokenizer`.
  TaskSet tasks = {};
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;
  /// Of the original activations and predictions, and of unfinished cells: their state and, of a
  /// cell that is done block by block, its packed model while it is scored.
  std::filesystem::path folder;
  std::string version;
  std::function<void(const std::string&)> say;
  std::function<bool()> interrupted;
};

class Workbench {
 public:
  explicit Workbench(WorkbenchConfig config) : config_(std::move(config)) {}

  /// Identity of all cells, but for their settings.
  CellInputs inputs();
  /// Why these settings cannot be run: a preprocessor that is not registered, a transform that this
  /// model cannot take; "" if they can. Throws std::invalid_argument for settings that no program
  /// could run on a model of so many blocks.
  static std::string obstacle(const Settings& settings, const ModelConfig& model);
  /// A CellRunner. An interrupted cell goes on after its last finished window when it is run again.
  CellResult run(const Cell& cell, const std::function<void(double)>& progress);

 private:
  /// Of a model as the cell's global transforms left it, which has this digest.
  const std::shared_ptr<ActivationCache>& original(Transformer& model, const std::string& digest);
  std::string digest(Transformer& model) const;
  Watch watch() const { return {config_.interrupted, {}}; }
  /// Quantizes the model and adds to the result what the run tells.
  void quantize_cell(const Cell& cell, std::unique_ptr<Transformer>& model,
                     const std::string& digest, const std::filesystem::path& unfinished,
                     const std::function<void(double)>& progress, CellResult& result);
  TaskScores score_tasks(Transformer& model) const;
  /// The original model's predictions on all texts; `digest` as above.
  const std::vector<OriginalStates>& states(Transformer& model, const std::string& digest);

  WorkbenchConfig config_;
  std::string model_digest_;  // of the untouched model; empty: not known yet
  std::map<std::string, std::shared_ptr<ActivationCache>> original_;  // by the model's digest
  std::map<std::string, std::vector<OriginalStates>> states_;         // [text], likewise
};

}  // namespace cbq
