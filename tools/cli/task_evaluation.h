// Zero-shot tasks on the command line: which, from where, and how they are printed and kept.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "experiments/tasks/measures.h"
#include "nn/text/tokenizer.h"
#include "nn/transformer.h"

namespace cbq::cli {

struct TaskOptions {
  /// As load_task_list (experiments/tasks/task_list.h) takes them.
  std::vector<std::string> tasks;
  std::string folder;              // of the data sets
  std::string encoding = "joint";  // or "separate"
  int64_t limit = 0;               // only the first so many items of each; 0: all
  int64_t tokens = 2048;           // in one forward pass
  std::string samples;             // file for every single score; empty: none
};

/// Reads all tasks, so that a missing file is found before any computing.
std::vector<Task> load_tasks(const TaskOptions& options);

/// Scores them, with progress on standard error; the mean of ETHICS' subsets follows them. Throws
/// Interrupted after Ctrl-C (where caught).
std::vector<TaskResult> evaluate_tasks(Transformer& model, const Tokenizer& tokenizer,
                                       const std::vector<Task>& tasks, const TaskOptions& options);

/// A line per task: its values with standard errors, items, encoding.
void print(std::ostream& out, const std::vector<TaskResult>& results, const TaskOptions& options);

/// JSON lines: task, doc_id, idx, loglikelihood (and is_greedy for LAMBADA).
void write_samples(const std::string& file, const std::vector<TaskResult>& results);

}  // namespace cbq::cli
