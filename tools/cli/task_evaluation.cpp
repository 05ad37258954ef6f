#include "tools/cli/task_evaluation.h"

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cbq/pipeline.h"
#include "experiments/progress.h"
#include "experiments/tasks/data_sets.h"
#include "experiments/tasks/request_file.h"
#include "nn/formats/atomic_file.h"
#include "tools/cli/command.h"

namespace fs = std::filesystem;

namespace cbq::cli {
namespace {

constexpr const char* ethics_subsets[] = {"ethics_cm", "ethics_deontology", "ethics_justice",
                                          "ethics_utilitarianism", "ethics_virtue"};

/// The subsets that are there. Utilitarianism needs a prepared file; without it the mean is one of
/// four, which is said.
void add_ethics(const TaskOptions& options, std::vector<Task>* tasks) {
  for (const std::string name : ethics_subsets) {
    const bool prepared = name == "ethics_utilitarianism";
    if (prepared && !fs::exists(fs::path(options.folder) / files_of_task(name)[0])) {
      std::cerr << "warning: ETHICS without utilitarianism, so its mean is that of four subsets; "
                << "tools/prepare_tasks.py makes " << files_of_task(name)[0] << std::endl;
      continue;
    }
    tasks->push_back(load_task(name, options.folder));
  }
}

}  // namespace

std::vector<Task> load_tasks(const TaskOptions& options) {
  std::vector<Task> tasks;
  for (const std::string& name : options.tasks) {
    if (fs::path(name).extension() == ".jsonl") {
      for (Task& task : read_request_file(name)) tasks.push_back(std::move(task));
      continue;
    }
    if (name != "ethics") files_of_task(name);  // throws for a name that is unknown
    check(!options.folder.empty(), "the task ", name, " needs --task-data, the data sets' folder");
    if (name == "ethics") {
      add_ethics(options, &tasks);
    } else {
      tasks.push_back(load_task(name, options.folder));
    }
  }
  for (size_t i = 0; i < tasks.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      check(tasks[k].name != tasks[i].name, "the task ", tasks[i].name, " is asked for twice");
    }
  }
  return tasks;
}

std::vector<TaskResult> evaluate_tasks(Transformer& model, const Tokenizer& tokenizer,
                                       const std::vector<Task>& tasks, const TaskOptions& options) {
  const Encoding encoding = encoding_from_name(options.encoding);
  Progress progress(std::cerr, stderr_is_terminal());
  std::vector<TaskResult> results;
  for (const Task& task : tasks) {
    ScoringOptions scoring;
    scoring.tokens = options.tokens;
    scoring.progress = [&](int64_t done, int64_t all) {
      if (interrupted()) throw Interrupted("interrupted while scoring " + task.name);
      progress.update(done, all, "scoring " + task.name);
    };
    results.push_back(evaluate_task(model, tokenizer, task, encoding, options.limit, scoring));
    progress.finish();
    int64_t requests = 0;
    for (const auto& item : results.back().scores) requests += static_cast<int64_t>(item.size());
    // Not on standard output nor in the files: those are the same for every run.
    std::cerr << fmt::format("{}: {} requests in {:.3f} s\n", task.name, requests,
                             results.back().seconds);
  }
  std::vector<const TaskResult*> subsets;
  for (const TaskResult& result : results) {
    for (const std::string name : ethics_subsets) {
      if (result.name == name && !result.values.empty()) subsets.push_back(&result);
    }
  }
  if (subsets.size() > 1) {
    TaskResult mean = mean_accuracy(concat("ethics (mean of ", subsets.size(), ")"), subsets);
    if (subsets.size() == std::size(ethics_subsets)) mean.name = "hendrycks_ethics";
    results.push_back(std::move(mean));
  }
  return results;
}

void print(std::ostream& out, const std::vector<TaskResult>& results, const TaskOptions& options) {
  for (const TaskResult& r : results) {
    out << fmt::format("{:<24}", r.name);
    for (const MeasuredValue& v : r.values) {
      out << fmt::format(" {} {:.4f} ± {:.4f} ", v.name, v.value, v.standard_error);
    }
    if (r.values.empty()) out << " no right choices given: log-likelihoods only ";
    if (!r.scores.empty()) {
      out << fmt::format(" {} of {} items, zero-shot, {} encoding", r.scores.size(), r.items,
                         options.encoding);
    }
    if (r.truncated > 0) out << fmt::format(", {} requests truncated at the left", r.truncated);
    out << "\n";
  }
  out << std::flush;
}

void write_samples(const std::string& file, const std::vector<TaskResult>& results) {
  std::string lines;
  for (const TaskResult& r : results) {
    const bool greedy = !r.values.empty() && r.values[0].name == "perplexity";
    for (size_t i = 0; i < r.scores.size(); ++i) {
      for (size_t c = 0; c < r.scores[i].size(); ++c) {
        nlohmann::json row = {{"task", r.name},
                              {"doc_id", i},
                              {"idx", c},
                              {"loglikelihood", r.scores[i][c].log_likelihood}};
        if (greedy) row["is_greedy"] = r.scores[i][c].is_greedy;
        lines += row.dump() + "\n";
      }
    }
  }
  write_text_atomically(file, lines);
}

}  // namespace cbq::cli
