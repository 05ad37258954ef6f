#include "experiments/task_store.h"

#include "nn/formats/json.h"
#include "nn/formats/sealed_files.h"

namespace cbq {

std::filesystem::path TaskStore::path_of(const Cell& cell) const {
  return folder_ / concat(cell.key, ".tasks-", digest_, ".json");
}

std::optional<TaskScores> TaskStore::find(
    const Cell& cell, const std::function<void(const std::string&)>& say) const {
  const std::filesystem::path path = path_of(cell);
  if (!std::filesystem::exists(path)) return std::nullopt;
  try {
    const std::string what = path.string();
    const nlohmann::json json = read_sealed_json(path);
    const std::vector<std::string> others =
        differences(JobIdentity::from_json(json_at(json, "identity", what), what), cell.identity);
    if (!others.empty()) fail(what, " belongs to another run: ", text_of(others));
    TaskScores scores;
    const nlohmann::json& all = json_at(json, "scores", what);
    if (!all.is_object()) fail(what, ": scores: expected an object");
    for (const auto& [name, score] : all.items()) {
      scores[name] = {json_double(json_at(score, "percent", what), "percent", what),
                      json_double(json_at(score, "standard_error", what), "standard_error", what)};
    }
    return scores;
  } catch (const std::runtime_error& error) {  // DamagedFile is one
    if (say) say(concat("not used, computed anew: ", error.what()));
    return std::nullopt;
  }
}

void TaskStore::put(const Cell& cell, const TaskScores& scores) const {
  nlohmann::json all = nlohmann::json::object();
  for (const auto& [name, score] : scores) {
    all[name] = {{"percent", score.value}, {"standard_error", score.standard_error}};
  }
  const nlohmann::json json = {{"identity", cell.identity.to_json()}, {"scores", all}};
  write_text_atomically(path_of(cell), sealed(json).dump(2) + "\n");
}

void TaskStore::remove(const Cell& cell) const {
  std::error_code ignored;
  std::filesystem::remove(path_of(cell), ignored);
}

}  // namespace cbq
