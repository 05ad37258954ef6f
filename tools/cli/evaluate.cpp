// cbq evaluate: perplexity of a model folder, quantized or not.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "cbq/quantized_folder.h"
#include "nn/atomic_file.h"
#include "tools/cli/evaluation.h"

namespace cbq::cli {
namespace {

struct Options {
  std::string model, tokenizer, json;
  std::vector<std::string> tokens, texts;
  EvaluationOptions evaluation;
  ComputeOptions compute;
};

void evaluate_folder(const Options& o) {
  EvaluationOptions evaluation = o.evaluation;
  evaluation.sources = o.tokens;
  evaluation.sources.insert(evaluation.sources.end(), o.texts.begin(), o.texts.end());
  check(!evaluation.sources.empty(), "nothing to score; give --tokens or --text");
  const Device device = o.compute.apply();
  const auto model = load_any_model(o.model, dtype_from_name(o.compute.dtype), device);
  const auto sets =
      load_evaluation(evaluation, {model.get(), o.tokenizer.empty() ? o.model : o.tokenizer});
  const std::vector<Score> scores = evaluate(*model, sets, evaluation.batch);
  print(std::cout, "", scores);
  if (o.json.empty()) return;
  const nlohmann::json json = {{"results", to_json(scores)},
                               {"config",
                                {{"model", o.model},
                                 {"dtype", o.compute.dtype},
                                 {"device", name_of(device)},
                                 {"batch_size", evaluation.batch}}},
                               {"cbq_version", version}};
  write_text_atomically(o.json, json.dump(2) + "\n");
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
                 "tokens per segment; 0: the model's context");
  app.add_option("--batch", o->evaluation.batch, "segments at a time")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--json", o->json, "write the results to this file, too");
  o->compute.add_to(app);
  return [o] { evaluate_folder(*o); };
}

}  // namespace cbq::cli
