// cbq evaluate: perplexity and zero-shot tasks of a model folder, quantized or not.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "experiments/command_line.h"
#include "experiments/model_loading.h"
#include "experiments/token_source.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/output_lock.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/program_version.h"
#include "tools/cli/evaluation.h"
#include "tools/cli/task_evaluation.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string model, tokenizer, json;
  std::vector<std::string> tokens, texts;
  EvaluationOptions evaluation;
  TaskOptions tasks;
  LoadOptions loading;
  ComputeOptions compute;
};

void evaluate_folder(const Options& o) {
  EvaluationOptions evaluation = o.evaluation;
  evaluation.sources = o.tokens;
  evaluation.sources.insert(evaluation.sources.end(), o.texts.begin(), o.texts.end());
  check(!evaluation.sources.empty() || !o.tasks.tasks.empty(),
        "nothing to score; give --tokens, --text or --tasks");
  encoding_from_name(o.tasks.encoding);
  // A place that cannot be written is found before the work.
  std::optional<OutputLock> json_lock, samples_lock;
  if (!o.json.empty()) json_lock.emplace(o.json);
  if (!o.tasks.samples.empty()) samples_lock.emplace(o.tasks.samples);
  const std::vector<Task> tasks = load_tasks(o.tasks);
  const Device device = o.compute.apply();
  const auto say = [](const std::string& line) { std::cerr << line << std::endl; };
  const auto model =
      o.loading.open(o.model, o.compute.dtype_for(o.model, device), device, {say, interrupted});
  const std::string tokenizer_path = o.tokenizer.empty() ? o.model : o.tokenizer;
  const auto sets = load_evaluation(evaluation, {model->config, tokenizer_path});
  const auto tokenizer =
      tasks.empty() ? nullptr : tokenizer_for(model->config.vocab_size, tokenizer_path);
  Terminal terminal;
  const std::vector<Score> scores = evaluate(*model, sets, evaluation.batch, terminal);
  terminal.result(lines_of("", scores));
  nlohmann::json json = {{"results", to_json(scores)},
                         {"config",
                          {{"model", o.model},
                           {"dtype", name_of(model->dtype())},
                           {"device", name_of(device)},
                           {"batch_size", evaluation.batch > 0 ? nlohmann::json(evaluation.batch)
                                                               : nlohmann::json("auto")},
                           {"tokens_per_pass", o.tasks.tokens}}},
                         {"cbq_version", program_version()}};
  if (!tasks.empty()) {
    const std::vector<TaskResult> results = evaluate_tasks(*model, *tokenizer, tasks, o.tasks);
    print(std::cout, results, o.tasks);
    if (!o.tasks.samples.empty()) write_samples(o.tasks.samples, results);
    json.merge_patch(to_harness_json(results, encoding_from_name(o.tasks.encoding)));
  }
  std::cerr << peak_memory_text(device) << std::endl;
  json["peak_host_bytes"] = peak_resident_bytes();
  if (!o.json.empty()) write_text_atomically(o.json, json.dump(2) + "\n");
}

}  // namespace

Action setup_evaluate(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("model", o->model, "model folder, floating point or quantized")->required();
  app.add_option("--tokens", o->tokens, "token files: FILE.h5, FILE.json or FILE.json:KEY");
  app.add_option("--text", o->texts,
                 "texts, cut into consecutive segments, each scored on its own (GPTQ's protocol)");
  app.add_option("--tokenizer", o->tokenizer, "for texts; default: the model folder's own");
  app.add_option("--segments", o->evaluation.segments, "only the first so many; 0: all");
  app.add_option("--segment-length", o->evaluation.segment_length,
                 "tokens per segment; 0: the model's context, at most 2,048");
  app.add_option("--batch", o->evaluation.batch,
                 "segments of texts at a time; 0: as many as make 16,384 tokens, 8 at most")
      ->capture_default_str()
      ->check(expect_from_zero);
  app.add_option("--tasks", o->tasks.tasks,
                 "zero-shot tasks, separated by commas: piqa, hellaswag, arc_easy, arc_challenge, "
                 "openbookqa, winogrande, mutual, ethics, lambada; NAME=PATH: from that folder or "
                 "data file; or files of requests (.jsonl)")
      ->delimiter(',');
  app.add_option("--task-data", o->tasks.folder, "folder of the tasks' data sets");
  app.add_option("--encoding", o->tasks.encoding,
                 "joint: context and choice as one text behind BOS (lm-evaluation-harness 0.4.13); "
                 "joint_without_bos: earlier 0.4; "
                 "separate: each on its own, no BOS (0.3, which the papers used)")
      ->capture_default_str();
  app.add_option("--limit", o->tasks.limit, "only the first so many items of each task; 0: all")
      ->check(expect_from_zero);
  app.add_option("--pass-tokens", o->tasks.tokens,
                 "tokens of requests in one forward pass; fewer need less memory")
      ->capture_default_str()
      ->check(expect_positive);
  app.add_option("--samples", o->tasks.samples, "write every log-likelihood to this file (.jsonl)");
  app.add_option("--json", o->json, "write the results to this file, too");
  o->loading.add_to(app);
  o->compute.add_to(app);
  return [o] { evaluate_folder(*o); };
}

}  // namespace cbq::cli
