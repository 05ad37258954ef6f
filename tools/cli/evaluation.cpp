#include "tools/cli/evaluation.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace cbq::cli {

std::vector<NamedTokens> load_evaluation(const EvaluationOptions& options,
                                         const TokenContext& context) {
  std::vector<NamedTokens> sets;
  for (const std::string& source : options.sources) {
    const std::string name = name_of_source(source);
    for (const NamedTokens& other : sets) {
      check(other.name != name, "two sources are called ", name, "; rename one of the files");
    }
    sets.push_back({name, evaluation_tokens(source, context, options.segments,
                                            options.segment_length, options.length_option)});
  }
  return sets;
}

std::vector<Score> evaluate(Transformer& model, const std::vector<NamedTokens>& sets, int64_t batch,
                            Listener& listener) {
  const Watch watch = listener.watch();
  std::vector<Score> scores;
  for (const NamedTokens& set : sets) {
    Score score{set.name, set.tokens.protocol, {}};
    PerplexityOptions options;
    options.progress = [&](int64_t done, int64_t total) {
      watch.step(done, total, "scoring " + set.name);
    };
    score.result = perplexity(model, set.tokens.segments, batch, options);
    listener.finish();
    if (!std::isfinite(score.result.nll_sum)) {
      throw NonFiniteError(message_of("the model's output on ", set.name,
                                      " is no number: its weights are broken, or its activations ",
                                      "exceed the range of --dtype"));
    }
    scores.push_back(std::move(score));
  }
  return scores;
}

std::string lines_of(const std::string& title, const std::vector<Score>& scores) {
  std::string lines;
  for (const Score& s : scores) {
    lines += fmt::format("{:<10} {:<24} perplexity {:.6f}  mean NLL {:.6f}  {} tokens scored, {}\n",
                         title, s.name, s.result.perplexity(), s.result.mean_nll(), s.result.tokens,
                         s.protocol);
  }
  return lines;
}

nlohmann::json to_json(const std::vector<Score>& scores) {
  nlohmann::json json = nlohmann::json::object();
  for (const Score& s : scores) {
    json[s.name] = {{"perplexity", s.result.perplexity()},
                    {"mean_nll", s.result.mean_nll()},
                    {"tokens", s.result.tokens},
                    {"protocol", s.protocol}};
  }
  return json;
}

}  // namespace cbq::cli
