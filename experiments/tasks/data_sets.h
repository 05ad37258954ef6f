// The data sets' own files -> tasks, with the prompts of lm-evaluation-harness 0.4 (whose task
// files are the source of every wording here).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/tasks/task.h"

namespace cbq {

/// Names that load_task takes, sorted.
std::vector<std::string> known_tasks();

/// Reads a task from its file below `folder`, or from `folder` where that is a file. Throws
/// std::invalid_argument with the known names for an unknown one; std::runtime_error when none of
/// the files it may be in is there (naming them), or with file, line and field for a broken one.
Task load_task(const std::string& name, const std::filesystem::path& folder);

/// Where load_task would look, relative to `folder`; the first that exists is read.
std::vector<std::string> files_of_task(const std::string& name);

}  // namespace cbq
