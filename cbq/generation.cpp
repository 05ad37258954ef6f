#include "cbq/generation.h"

#include <algorithm>
#include <cmath>

#include "cbq/token_draw.h"
#include "kernels/formulas/philox.h"
#include "nn/decoder.h"

namespace cbq {
namespace {

constexpr const char* remedy = "check the model's weights, or try --dtype f32";

Tensor tensor_of(const std::vector<int32_t>& ids, const Transformer& model) {
  return Tensor::from(ids, {static_cast<int64_t>(ids.size())}, Dtype::i32, model.device());
}

/// -log softmax(logits)[id] in f64.
double nll_of(const float* logits, int64_t vocabulary, int32_t id) {
  const float top = *std::max_element(logits, logits + vocabulary);
  double total = 0.0;
  for (int64_t i = 0; i < vocabulary; ++i) {
    total += std::exp(static_cast<double>(logits[i] - top));
  }
  return std::log(total) - static_cast<double>(logits[id] - top);
}

}  // namespace

Generation generate(Transformer& model, const std::vector<int32_t>& prompt,
                    const GenerationSettings& settings, const std::function<void(int32_t)>& each) {
  const auto given = static_cast<int64_t>(prompt.size());
  const int64_t context = model.config.context();
  check(given >= 1, "generate: the prompt has no tokens; give a text");
  check(given < context, "generate: the prompt has ", given,
        " tokens, which leaves no room in the ", "model's context of ", context,
        "; give a shorter one");
  check(settings.tokens >= 1, "generate: ", settings.tokens, " tokens; expected at least 1");
  check(settings.temperature >= 0.0 && std::isfinite(settings.temperature),
        "generate: temperature ", settings.temperature, "; expected 0 or more");
  const int64_t room = std::min(settings.tokens, context - given);
  const std::vector<int64_t>& ends = model.config.eos_token_ids;
  Decoder decoder(model, 1, given + room);
  Generation made;
  std::vector<int32_t> next = prompt;
  std::vector<double> weights;
  for (int64_t t = 0; t < room; ++t) {
    const std::vector<float> logits = decoder.next(tensor_of(next, model)).to_vector<float>();
    const auto vocabulary = static_cast<int64_t>(logits.size());
    weights.resize(logits.size());
    const int32_t id = settings.temperature == 0.0
                           ? likeliest_token(logits.data(), vocabulary, remedy)
                           : draw_token(logits.data(), vocabulary, settings.temperature,
                                        philox_uniform(settings.seed, 0, static_cast<uint64_t>(t)),
                                        weights.data(), remedy);
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
      made.reason = StopReason::end_of_text;
      return made;
    }
    made.ids.push_back(id);
    if (each) each(id);
    next = {id};
  }
  if (room < settings.tokens) made.reason = StopReason::context_is_full;
  return made;
}

Agreement agreement(Transformer& model, const std::vector<int32_t>& prompt,
                    const std::vector<int32_t>& continuation) {
  check(!prompt.empty() && !continuation.empty(), "agreement: prompt or continuation is empty");
  for (const int32_t id : continuation) {
    check(id >= 0 && id < model.config.vocab_size, "agreement: token ", id,
          " is outside the model's vocabulary of ", model.config.vocab_size);
  }
  std::vector<int32_t> read = prompt;
  read.insert(read.end(), continuation.begin(), continuation.end() - 1);
  Decoder decoder(model, 1, static_cast<int64_t>(read.size()));
  const Tensor all = decoder.next_all(tensor_of(read, model));
  const std::vector<float> logits = all.to_vector<float>();
  const int64_t vocabulary = all.size(1);
  Agreement result;
  result.tokens = static_cast<int64_t>(continuation.size());
  double sum = 0.0;
  for (size_t t = 0; t < continuation.size(); ++t) {
    const float* row = logits.data() + (static_cast<int64_t>(prompt.size() + t) - 1) * vocabulary;
    result.likeliest += likeliest_token(row, vocabulary, remedy) == continuation[t] ? 1 : 0;
    sum += nll_of(row, vocabulary, continuation[t]);
  }
  result.mean_nll = sum / static_cast<double>(result.tokens);
  return result;
}

}  // namespace cbq
