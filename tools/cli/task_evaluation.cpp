#include "tools/cli/task_evaluation.h"

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cbq/pipeline.h"
#include "experiments/progress.h"
#include "experiments/tasks/task_list.h"
#include "nn/formats/atomic_file.h"
#include "tools/cli/command.h"

namespace cbq::cli {

std::vector<Task> load_tasks(const TaskOptions& options) {
  return load_task_list(options.tasks, options.folder);
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
  add_ethics_mean(&results);
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
