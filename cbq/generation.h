// Text that continues a prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

struct GenerationSettings {
  int64_t tokens = 64;       // new ones, at most
  double temperature = 0.0;  // 0: always the likeliest token
  uint64_t seed = 0;         // of the draws, with a temperature
};

enum class StopReason { end_of_text, enough_tokens, context_is_full };

struct Generation {
  std::vector<int32_t> ids;  // the new ones, without the token that ends the text
  StopReason reason = StopReason::enough_tokens;
};

/// Continues `prompt`. Keys and values of earlier tokens are kept (nn/decoder.h), so a token costs
/// one token's pass. `each` is called with every new token, and may throw to stop. Throws
/// std::invalid_argument for an empty prompt, one that leaves no room in the model's context, a
/// negative temperature; NonFiniteError for logits that are no numbers.
Generation generate(Transformer& model, const std::vector<int32_t>& prompt,
                    const GenerationSettings& settings,
                    const std::function<void(int32_t)>& each = {});

/// How another model sees a continuation, token by token, each behind the text before it.
struct Agreement {
  int64_t tokens = 0;     // of the continuation
  int64_t likeliest = 0;  // so many of them are the model's likeliest token, too
  double mean_nll = 0.0;  // nats per token of the continuation
};

/// Throws std::invalid_argument where prompt or continuation is empty, both are longer than the
/// model's context, or an id is outside its vocabulary.
Agreement agreement(Transformer& model, const std::vector<int32_t>& prompt,
                    const std::vector<int32_t>& continuation);

}  // namespace cbq
