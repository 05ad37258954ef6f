// From log-likelihoods to what tables report.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/tasks/scoring.h"
#include "experiments/tasks/task.h"

namespace cbq {

struct MeasuredValue {
  std::string name;  // "acc", "acc_norm", "r@1", "r@2", "mrr", "perplexity"
  double value = 0.0;
  double standard_error = 0.0;
};

struct TaskResult {
  std::string name;
  std::vector<MeasuredValue> values;              // empty where the right choices are not known
  std::vector<std::vector<RequestScore>> scores;  // [item][choice]
  int64_t truncated = 0;                          // requests that lost tokens at their left
  int64_t items = 0;                              // of the data set; scores has the first few
  std::string source, source_hash;
  double seconds = 0.0;  // on the clock, for tokenizing and scoring
};

/// Means over the items, with the standard error of a mean, s / sqrt(n), s with n - 1; for
/// perplexity = exp(-mean log-likelihood) its first-order propagation, perplexity * s / sqrt(n).
/// Definitions at Measure. Throws std::invalid_argument when counts do not fit.
std::vector<MeasuredValue> measure(const Task& task,
                                   const std::vector<std::vector<RequestScore>>& scores);

/// Scores the first `limit` items (0: all) of a task.
TaskResult evaluate_task(Transformer& model, const Tokenizer& tokenizer, const Task& task,
                         Encoding encoding, int64_t limit, ScoringOptions options);

/// "ethics": the unweighted mean of the subsets' accuracies, its error propagated from theirs.
/// Throws std::invalid_argument for none.
TaskResult mean_accuracy(const std::string& name, const std::vector<const TaskResult*>& subsets);

/// The layout of lm-evaluation-harness: {"results": {task: {"acc,none", "acc_stderr,none"}},
/// "n-samples", "n-shot", "higher_is_better", "configs"}.
nlohmann::json to_harness_json(const std::vector<TaskResult>& results, Encoding encoding);

}  // namespace cbq
