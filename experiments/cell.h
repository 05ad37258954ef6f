// A cell: one run of one setting, with its results. A table is made of cells, and tables share
// them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cbq/job_identity.h"
#include "cbq/settings.h"
#include "experiments/task_columns.h"

namespace cbq {

/// The identity of a table's cells without their settings.
using CellInputs = JobIdentity;

struct Cell {
  Settings settings;  // as the first row that asks for it writes them
  JobIdentity identity;
  std::string key;     // identity.key()
  double cost = 1.0;   // expected work: tokens through blocks, forward
  size_t model = 0;    // of the plan's models
  bool tasks = false;  // some table shows accuracies of it
};

/// Score of one test text.
struct TextScore {
  double mean_nll = 0.0;  // nats per scored token
  int64_t tokens = 0;     // scored
  // Against the original model, over all scored tokens: KL(original || this) in nats, its mean and
  // its 99th percentile (the smallest value that at least 99 % of the tokens do not exceed), and
  // the share of tokens to which both give the largest probability to the same prediction.
  double kl = 0.0, kl_p99 = 0.0, top1 = 0.0;
  // Of every segment, in order: scored tokens, sums of their losses and KL in nats, and how many of
  // them agree with the original.
  std::vector<int64_t> segment_tokens;
  std::vector<double> segment_nll, segment_kl;
  std::vector<int64_t> segment_agreed;
};

struct CellResult {
  std::vector<TextScore> texts;  // in the order of the run's texts
  double seconds = 0.0;          // of pre-processing and reconstruction
  int64_t peak_bytes = 0;        // device memory, largest of the windows
  int64_t windows = 0;
  std::vector<std::string> notes;  // skipped scaling sites, restored windows, ...
  std::string version, device;     // of the program that computed it, and where
  TaskScores tasks;                // kept by themselves (experiments/task_store.h)
  int64_t finished = 0;            // when: seconds since 1970 (UTC)
};

/// Tokens that decide how long a cell takes.
struct CellWork {
  int64_t calibration_tokens = 8192, test_tokens = 32768;
};

/// The cell of these settings for a model of `blocks` blocks.
Cell make_cell(const Settings& settings, int64_t blocks, const CellWork& work,
               const CellInputs& inputs);

/// Finished cells, one file each: <folder>/<key>.json, complete or not there.
class CellStore {
 public:
  explicit CellStore(std::filesystem::path folder);
  /// None if it is not there; also if the file is damaged, of another program's version, or without
  /// what this version keeps (the scores of every segment), so that the cell is computed anew. Why
  /// is said through `say`.
  std::optional<CellResult> find(const Cell& cell,
                                 const std::function<void(const std::string&)>& say) const;
  /// Throws std::runtime_error, naming the path, when it cannot be written.
  void put(const Cell& cell, const CellResult& result) const;

 private:
  std::filesystem::path path_of(const Cell& cell) const;
  std::filesystem::path folder_;
};

/// Computes a cell. `progress(fraction)` may be called with 0 to 1. Throws Interrupted.
using CellRunner =
    std::function<CellResult(const Cell& cell, const std::function<void(double)>& progress)>;

nlohmann::json to_json(const CellResult& result);
/// Throws std::runtime_error naming `what` and the field.
CellResult cell_result_from_json(const nlohmann::json& json, const std::string& what);

}  // namespace cbq
