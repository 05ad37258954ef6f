// Accuracies as columns of the paper's tables: which task stands in which column, and how cells are
// scored on tasks.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "experiments/tasks/measures.h"

namespace cbq {

/// In percent, with the standard error of a mean over the task's items.
struct TaskScore {
  double value = 0.0, standard_error = 0.0;
};
/// By task and value: "piqa/acc", "piqa/acc_norm", "mutual/r@1", "ethics/acc".
using TaskScores = std::map<std::string, TaskScore>;

/// Columns that show accuracies, under the names of the paper's data: lambada_acc, piqa_acc,
/// hellaswag_acc, arc_challenge_acc, arc_easy_acc, mutual_mrr, mutual_r1, mutual_r2, ethics_acc;
/// and of two in one cell piqa_acc_first (acc), piqa_acc_second (acc_norm), ...
const std::vector<std::string>& task_metric_names();
bool is_task_metric(const std::string& metric);

/// What `metric` shows of the scores; nullptr if its task is not among them. `accuracy`: "acc" or
/// "acc_norm" for columns that do not say which; a task without acc_norm shows acc.
const TaskScore* find_score(const TaskScores& scores, const std::string& metric,
                            const std::string& accuracy);

/// Values of tasks in percent. "ethics": the mean of the subsets, or the only one.
TaskScores task_scores(const std::vector<TaskResult>& results);

/// The tasks of a run, and how they are scored. Empty: none.
struct TaskSet {
  std::vector<Task> tasks;
  Encoding encoding = Encoding::separate;  // the papers': lm-evaluation-harness 0.3
  int64_t limit = 0;                       // only the first so many items of each; 0: all

  /// Of the requests, encoding and limit: another digest may have other scores. "" for no tasks.
  std::string digest() const;
  /// Tokens that a model reads for all of them, at four characters each: only for how long it
  /// takes.
  int64_t approximate_tokens() const;
  /// Whether a column can show something.
  bool serves(const std::string& metric) const;
  /// `poll` is called on the way and may throw.
  TaskScores score(Transformer& model, const Tokenizer& tokenizer,
                   const std::function<void()>& poll) const;
};

}  // namespace cbq
