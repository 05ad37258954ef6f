#include "experiments/tasks/request_file.h"

#include <map>

#include "experiments/tasks/rows.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/hash.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int64_t most = 1 << 28;  // questions of a task

struct Question {
  std::map<int64_t, Request> choices;
  int64_t gold = -1;
  std::string where;  // of its first line
};

Measure measure_of(const std::string& task) {
  if (task.starts_with("mutual")) return Measure::ranking;
  if (task.starts_with("lambada")) return Measure::word;
  if (task.starts_with("ethics_") || task.starts_with("winogrande")) return Measure::accuracy;
  return Measure::normalized;
}

void add(const JsonRow& row, Question* question) {
  if (row.has("request_type") && row.string("request_type") != "loglikelihood") {
    fail(row.where, ": \"request_type\" ", row.string("request_type"),
         " is not supported, only loglikelihood");
  }
  Request request{row.string("context"), row.string("continuation"), 0};
  if (request.continuation.empty()) fail(row.where, ": \"continuation\" is empty");
  request.length =
      count_characters(row.has("choice")                       ? row.string("choice")
                       : request.continuation.starts_with(' ') ? request.continuation.substr(1)
                                                               : request.continuation);
  const int64_t gold = row.has("gold") ? row.integer("gold", 0, most) : -1;
  if (question->choices.empty()) {
    question->gold = gold;
    question->where = row.where;
  } else if (question->gold != gold) {
    fail(row.where, ": another \"gold\" than ", question->where, " has for the same question");
  }
  const int64_t idx = row.integer("idx", 0, most);
  if (!question->choices.emplace(idx, std::move(request)).second) {
    fail(row.where, ": choice ", idx, " of question ", row.integer("doc_id", 0, most),
         " comes twice");
  }
}

TaskItem item_of(const Question& question) {
  TaskItem item;
  for (const auto& [idx, request] : question.choices) {
    if (idx != static_cast<int64_t>(item.choices.size())) {
      fail(question.where, ": choice ", item.choices.size(), " of this question is missing");
    }
    item.choices.push_back(request);
  }
  item.gold = question.gold;
  if (item.gold >= static_cast<int64_t>(item.choices.size())) {
    fail(question.where, ": \"gold\" is ", item.gold, ", of ", item.choices.size(), " choices");
  }
  return item;
}

}  // namespace

std::vector<Task> read_request_file(const std::filesystem::path& file) {
  std::map<std::string, std::map<int64_t, Question>> questions;
  // A choice that is left out would make its question easier, and no one could tell which.
  SkippedRows skipped(file.string());
  int64_t all = 0;
  const std::vector<JsonRow> rows = read_json_rows(file, &skipped, &all);
  if (skipped.count() > 0) {
    fail(skipped.first_reason(), "; every row of a request file is needed, so make it again");
  }
  if (rows.empty()) fail(file.string(), " holds no rows");
  for (const JsonRow& row : rows) {
    add(row, &questions[row.string("task")][row.integer("doc_id", 0, most)]);
  }
  const std::string hash = hex(hash_bytes(read_text_file(file)));
  std::vector<Task> tasks;
  for (const auto& [name, of_task] : questions) {
    Task task{name, measure_of(name), {}, file.string(), hash};
    for (const auto& [doc_id, question] : of_task) task.items.push_back(item_of(question));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

}  // namespace cbq
