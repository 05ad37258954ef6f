// Accuracies of finished cells. They lie beside the cells, since most runs need none: a cell keeps
// its file, and its key, whether or not it was scored on tasks.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "experiments/cell.h"

namespace cbq {

/// One file per cell and set of tasks: <folder>/<key>.tasks-<digest>.json, complete or not there.
class TaskStore {
 public:
  /// `digest`: TaskSet::digest().
  TaskStore(std::filesystem::path folder, std::string digest)
      : folder_(std::move(folder)), digest_(std::move(digest)) {}

  /// None if it is not there, damaged, or of another identity (said through `say`).
  std::optional<TaskScores> find(const Cell& cell,
                                 const std::function<void(const std::string&)>& say) const;
  /// Throws std::runtime_error, naming the path, when it cannot be written.
  void put(const Cell& cell, const TaskScores& scores) const;
  void remove(const Cell& cell) const;

 private:
  std::filesystem::path path_of(const Cell& cell) const;
  std::filesystem::path folder_;
  std::string digest_;
};

}  // namespace cbq
