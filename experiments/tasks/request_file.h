// Request files: tasks whose prompts another program has made (tools/prepare_tasks.py asks
// lm-evaluation-harness for its own).
#pragma once

#include <filesystem>
#include <vector>

#include "experiments/tasks/task.h"

namespace cbq {

/// Reads JSON lines, one per choice:
///   "task", "context", "continuation"  strings
///   "doc_id", "idx"                    numbers of the question and of the choice in it, from 0
///   "gold"                             index of the right choice; may be left out
///   "choice"                           the choice's own text, for acc_norm; without it the
///                                      continuation without the space in front
/// Lines may come in any order. How a task is judged follows from its name: mutual* by ranking,
/// lambada* by its word, ethics_* and winogrande by accuracy, all others also normalized.
/// Throws std::runtime_error, naming line and field, for what is missing or contradicts itself.
std::vector<Task> read_request_file(const std::filesystem::path& file);

}  // namespace cbq
