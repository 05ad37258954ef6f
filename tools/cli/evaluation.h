// Perplexity on named token sets, printed and as JSON: the same code for `quantize` and `evaluate`,
// so that their numbers are equal to the last bit.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/token_source.h"
#include "nn/perplexity.h"
#include "nn/text/tokens.h"
#include "tools/cli/command.h"
#include "tools/cli/listener.h"

namespace cbq::cli {

struct EvaluationOptions {
  std::vector<std::string> sources;
  int64_t segments = 0;
  int64_t segment_length = 0;
  int64_t batch = 0;                               // 0: as many as make 16,384 tokens, 8 at most
  const char* length_option = "--segment-length";  // what sets segment_length, for messages
};

struct NamedTokens {
  std::string name;
  TokenSet tokens;
};

/// Reads all sources, so that a wrong one is found before any computing.
std::vector<NamedTokens> load_evaluation(const EvaluationOptions& options,
                                         const TokenContext& context);

struct Score {
  std::string name, protocol;
  PerplexityResult result;
};

/// Scores every set. Throws Interrupted when the listener asks for it, NonFiniteError when the
/// model's output is no number.
std::vector<Score> evaluate(Transformer& model, const std::vector<NamedTokens>& sets, int64_t batch,
                            Listener& listener);

/// One line each: perplexity, mean NLL, tokens, protocol.
std::string lines_of(const std::string& title, const std::vector<Score>& scores);
/// {name: {"perplexity", "mean_nll", "tokens", "protocol"}}, as lm-evaluation-harness' "results".
nlohmann::json to_json(const std::vector<Score>& scores);

}  // namespace cbq::cli
