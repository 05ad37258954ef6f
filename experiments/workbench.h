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
#include "nn/text/tokens.h"

namespace cbq {

struct WorkbenchConfig {
  std::function<std::unique_ptr<Transformer>()> load;  // the untouched model
  TokenSet calibration;
  std::vector<TokenSet> texts;
  std::filesystem::path folder;  // of the original activations and of unfinished cells
  std::string version;
  std::function<void(const std::string&)> say;
  std::function<bool()> interrupted;
};

class Workbench {
 public:
  explicit Workbench(WorkbenchConfig config) : config_(std::move(config)) {}

  /// Identity of all cells, but for their settings.
  CellInputs inputs();
  /// Why these settings cannot be run in this program (a preprocessor that is not registered); ""
  /// if they can. Throws std::invalid_argument for settings that no program could run on a model of
  /// `blocks` blocks.
  static std::string obstacle(const Settings& settings, int64_t blocks);
  /// A CellRunner. An interrupted cell goes on after its last finished window when it is run again.
  CellResult run(const Cell& cell, const std::function<void(double)>& progress);

 private:
  /// Of a model as the cell's global transforms left it, which has this digest.
  const std::shared_ptr<ActivationCache>& original(Transformer& model, const std::string& digest);
  std::string digest(Transformer& model) const;
  Watch watch() const { return {config_.interrupted, {}}; }
  TextScore score(Transformer& model, const TokenSet& text) const;

  WorkbenchConfig config_;
  std::string model_digest_;  // of the untouched model; empty: not known yet
  std::map<std::string, std::shared_ptr<ActivationCache>> original_;  // by the model's digest
};

}  // namespace cbq
