#include "experiments/tasks/task_list.h"

#include <filesystem>
#include <iostream>
#include <iterator>

#include "experiments/tasks/data_sets.h"
#include "experiments/tasks/request_file.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

constexpr const char* ethics_subsets[] = {"ethics_cm", "ethics_deontology", "ethics_justice",
                                          "ethics_utilitarianism", "ethics_virtue"};

/// The subsets that are there. Utilitarianism needs a prepared file; without it the mean is one of
/// four, which is said.
void add_ethics(const fs::path& folder, std::vector<Task>* tasks) {
  for (const std::string name : ethics_subsets) {
    const bool prepared = name == "ethics_utilitarianism";
    if (prepared && !fs::exists(folder / files_of_task(name)[0])) {
      std::cerr << "warning: ETHICS without utilitarianism, so its mean is that of four subsets; "
                << "tools/prepare_tasks.py makes " << files_of_task(name)[0] << std::endl;
      continue;
    }
    tasks->push_back(load_task(name, folder));
  }
}

void add_tasks(const std::string& text, const std::string& folder, std::vector<Task>* tasks) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  if (equals == std::string::npos && fs::path(name).extension() == ".jsonl") {
    for (Task& task : read_request_file(name)) tasks->push_back(std::move(task));
    return;
  }
  if (name != "ethics") files_of_task(name);  // throws for a name that is unknown
  const std::string from = equals == std::string::npos ? folder : text.substr(equals + 1);
  check(!from.empty(), "the task ", name, " needs --task-data, the data sets' folder");
  if (name == "ethics") {
    add_ethics(from, tasks);
  } else {
    tasks->push_back(load_task(name, from));
  }
}

}  // namespace

std::vector<Task> load_task_list(const std::vector<std::string>& names, const std::string& folder) {
  std::vector<Task> tasks;
  for (const std::string& name : names) add_tasks(name, folder, &tasks);
  for (size_t i = 0; i < tasks.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      check(tasks[k].name != tasks[i].name, "the task ", tasks[i].name, " is asked for twice");
    }
  }
  return tasks;
}

void add_ethics_mean(std::vector<TaskResult>* results) {
  std::vector<const TaskResult*> subsets;
  for (const TaskResult& result : *results) {
    for (const std::string name : ethics_subsets) {
      if (result.name == name && !result.values.empty()) subsets.push_back(&result);
    }
  }
  if (subsets.size() < 2) return;
  TaskResult mean = mean_accuracy(concat("ethics (mean of ", subsets.size(), ")"), subsets);
  if (subsets.size() == std::size(ethics_subsets)) mean.name = "hendrycks_ethics";
  results->push_back(std::move(mean));
}

}  // namespace cbq
