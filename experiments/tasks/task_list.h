// Several tasks at once, as every command line names them, and what ETHICS' subsets are together.
#pragma once

#include <string>
#include <vector>

#include "experiments/tasks/measures.h"

namespace cbq {

/// Reads the tasks that `names` mean, so that a missing file is found before any computing:
///   NAME         one of known_tasks(), or "ethics" for its five subsets, from below `folder`
///   NAME=PATH    the same from below another folder, or from the data set's own file
///   FILE.jsonl   a request file, which may hold several tasks
/// ETHICS without its prepared file of utilitarianism is four subsets, which a warning says.
/// Throws std::invalid_argument for an unknown name, a name without a folder, a task that comes
/// twice; what load_task and read_request_file throw.
std::vector<Task> load_task_list(const std::vector<std::string>& names, const std::string& folder);

/// Appends the mean of ETHICS' subsets where there are at least two with values.
void add_ethics_mean(std::vector<TaskResult>* results);

}  // namespace cbq
