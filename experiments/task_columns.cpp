#include "experiments/task_columns.h"

#include <algorithm>

#include "experiments/tasks/task_list.h"
#include "nn/formats/hash.h"
#include "tensor/error.h"

namespace cbq {
namespace {

struct Column {
  std::string task, value;  // value "": the table's accuracy
};

const std::map<std::string, Column>& columns() {
  static const std::map<std::string, Column> all = [] {
    std::map<std::string, Column> made = {
        {"lambada_acc", {"lambada", "acc"}}, {"mutual_mrr", {"mutual", "mrr"}},
        {"mutual_r1", {"mutual", "r@1"}},    {"mutual_r2", {"mutual", "r@2"}},
        {"ethics_acc", {"ethics", "acc"}},
    };
    for (const std::string task : {"piqa", "hellaswag", "arc_challenge", "arc_easy"}) {
      made[task + "_acc"] = {task, ""};
      made[task + "_acc_first"] = {task, "acc"};
      made[task + "_acc_second"] = {task, "acc_norm"};
    }
    return made;
  }();
  return all;
}

/// The task of a column, or of a data set's variant: lambada_openai stands under lambada.
std::string column_task(const std::string& name) {
  if (name.starts_with("lambada")) return "lambada";
  if (name == "hendrycks_ethics" || name.starts_with("ethics")) return "ethics";
  return name;
}

}  // namespace

const std::vector<std::string>& task_metric_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& [name, column] : columns()) all.push_back(name);
    return all;
  }();
  return names;
}

bool is_task_metric(const std::string& metric) { return columns().count(metric) > 0; }

const TaskScore* find_score(const TaskScores& scores, const std::string& metric,
                            const std::string& accuracy) {
  const auto column = columns().find(metric);
  if (column == columns().end()) return nullptr;
  const auto& [task, value] = column->second;
  for (const std::string& wanted : {value.empty() ? accuracy : value, std::string("acc")}) {
    const auto found = scores.find(concat(task, "/", wanted));
    if (found != scores.end()) return &found->second;
    if (!value.empty()) return nullptr;
  }
  return nullptr;
}

TaskScores task_scores(const std::vector<TaskResult>& results) {
  TaskScores scores;
  std::vector<TaskResult> all = results;
  add_ethics_mean(&all);
  for (const TaskResult& result : all) {
    for (const MeasuredValue& v : result.values) {
      if (v.name == "perplexity") continue;
      // The mean of the subsets comes behind them, so that it is what remains.
      scores[concat(column_task(result.name), "/", v.name)] = {100.0 * v.value,
                                                               100.0 * v.standard_error};
    }
  }
  return scores;
}

std::string TaskSet::digest() const {
  if (tasks.empty()) return "";
  uint64_t hash = hash_bytes(concat(name_of(encoding), " ", limit));
  for (const Task& task : tasks) {
    hash = hash_bytes(concat(" ", task.name, " ", task.source_hash), hash);
  }
  return hex(hash);
}

int64_t TaskSet::approximate_tokens() const {
  int64_t characters = 0;
  for (const Task& task : tasks) {
    const size_t all = task.items.size();
    const size_t used = limit > 0 ? std::min(all, static_cast<size_t>(limit)) : all;
    for (size_t i = 0; i < used; ++i) {
      const std::vector<Request>& choices = task.items[i].choices;
      if (choices.empty()) continue;
      characters += static_cast<int64_t>(choices.front().context.size());  // read once for all
      for (const Request& r : choices) {
        characters += static_cast<int64_t>(r.continuation.size());
      }
    }
  }
  return characters / 4;
}

bool TaskSet::serves(const std::string& metric) const {
  const auto column = columns().find(metric);
  if (column == columns().end()) return false;
  return std::any_of(tasks.begin(), tasks.end(), [&](const Task& task) {
    return column_task(task.name) == column->second.task;
  });
}

TaskScores TaskSet::score(Transformer& model, const Tokenizer& tokenizer,
                          const std::function<void()>& poll) const {
  std::vector<TaskResult> results;
  for (const Task& task : tasks) {
    ScoringOptions options;
    options.progress = [&](int64_t, int64_t) { poll(); };
    results.push_back(evaluate_task(model, tokenizer, task, encoding, limit, options));
  }
  return task_scores(results);
}

}  // namespace cbq
