// Text that continues a prompt: the tokens, where it stops, what of the text is shown when.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cbq/generation.h"
#include "cbq/sampling.h"
#include "cbq/token_draw.h"
#include "nn/text/text_stream.h"
#include "tests/byte_tokenizer.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_generation {
namespace {

/// Logits behind the last token by a pass over the whole text, without any cache.
std::vector<float> whole_logits(Transformer& model, const std::vector<int32_t>& ids) {
  NoGrad none;
  const auto tokens = static_cast<int64_t>(ids.size());
  const Tensor read = Tensor::from(ids, {tokens}, Dtype::i32, Device::cpu());
  const std::vector<float> all = model.forward(read, {1, tokens}).value().to_vector<float>();
  const auto vocabulary = static_cast<size_t>(model.config.vocab_size);
  return {all.end() - static_cast<std::ptrdiff_t>(vocabulary), all.end()};
}

std::unique_ptr<Transformer> endless_model() {
  auto model = tiny_model(2);
  model->config.eos_token_ids.clear();
  return model;
}

TEST(Generate, GreedyTokensAreTheLikeliestOfWholePasses) {
  const auto model = endless_model();
  std::vector<int32_t> text = {3, 1, 4, 1, 5}, expected;
  for (int i = 0; i < 12; ++i) {
    const std::vector<float> logits = whole_logits(*model, text);
    expected.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    text.push_back(expected.back());
  }
  std::vector<int32_t> told;
  const Generation made =
      generate(*model, {3, 1, 4, 1, 5}, {.tokens = 12}, [&](int32_t id) { told.push_back(id); });
  EXPECT_EQ(made.ids, expected);
  EXPECT_EQ(told, expected);
  EXPECT_EQ(made.reason, StopReason::enough_tokens);
}

TEST(Generate, DrawsFollowTheSoftmaxAtTheTemperature) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  std::vector<double> weights(4);
  for (const double temperature : {0.5, 1.0, 3.0}) {
    double total = 0.0;
    std::vector<double> probability;
    for (const float logit : logits) probability.push_back(std::exp(logit / temperature));
    for (const double p : probability) total += p;
    std::vector<double> share(4, 0.0);
    constexpr int draws = 20000;
    for (int i = 0; i < draws; ++i) {
      const int32_t id =
          draw_token(logits.data(), 4, temperature, (i + 0.5) / draws, weights.data(), "");
      share[static_cast<size_t>(id)] += 1.0 / draws;
    }
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(share[i], probability[i] / total, 1e-4);
  }
}

TEST(Generate, TheSeedDecidesTheDraws) {
  const auto model = endless_model();
  const auto ids = [&](uint64_t seed) {
    return generate(*model, {1}, {.tokens = 20, .temperature = 1.0, .seed = seed}).ids;
  };
  EXPECT_EQ(ids(5), ids(5));
  EXPECT_NE(ids(5), ids(6));
  // At a tiny temperature only the likeliest token is left.
  EXPECT_EQ(generate(*model, {1}, {.tokens = 20, .temperature = 1e-6, .seed = 5}).ids,
            generate(*model, {1}, {.tokens = 20}).ids);
}

TEST(Generate, StopsAtTheEndOfTheTextAndOfTheContext) {
  const auto model = endless_model();
  const std::vector<int32_t> free = generate(*model, {2}, {.tokens = 31}).ids;
  ASSERT_EQ(free.size(), 31u);
  const Generation full = generate(*model, {2}, {.tokens = 32});
  EXPECT_EQ(full.ids, free) << "a context of 32 holds the prompt's token and 31 more";
  EXPECT_EQ(full.reason, StopReason::context_is_full);
  model->config.eos_token_ids = {free[6]};
  const Generation ended = generate(*model, {2}, {.tokens = 31});
  const auto first = std::find(free.begin(), free.end(), free[6]);
  EXPECT_EQ(ended.ids, std::vector<int32_t>(free.begin(), first));
  EXPECT_EQ(ended.reason, StopReason::end_of_text);
}

TEST(Generate, RefusesWhatCannotBe) {
  const auto model = endless_model();
  expect_error<std::invalid_argument>([&] { generate(*model, {}, {}); }, {"prompt has no tokens"});
  const std::vector<int32_t> long_prompt(32, 1);
  expect_error<std::invalid_argument>([&] { generate(*model, long_prompt, {}); },
                                      {"32 tokens", "context of 32", "shorter"});
  expect_error<std::invalid_argument>([&] { generate(*model, {1}, {.temperature = -0.5}); },
                                      {"temperature -0.5", "0 or more"});
  expect_error<std::invalid_argument>([&] { generate(*model, {1}, {.temperature = NAN}); },
                                      {"temperature", "0 or more"});
  expect_error<std::invalid_argument>([&] { generate(*model, {1}, {.tokens = 0}); },
                                      {"0 tokens", "at least 1"});
  model->visit("", [](const std::string& path, Var& p) {
    if (path.find("norm") != std::string::npos) kernels::fill(p.value(), NAN);
  });
  EXPECT_THROW(generate(*model, {1}, {}), NonFiniteError);
  EXPECT_THROW(generate(*model, {1}, {.temperature = 1.0}), NonFiniteError);
}

TEST(Agreement, CountsLikeliestTokensAndTheirLoss) {
  const auto model = endless_model();
  const std::vector<int32_t> prompt = {3, 1, 4};
  std::vector<int32_t> continuation = generate(*model, prompt, {.tokens = 8}).ids;
  EXPECT_EQ(agreement(*model, prompt, continuation).likeliest, 8);
  continuation[7] = (continuation[7] + 1) % 40;
  double nll = 0.0;
  std::vector<int32_t> text = prompt;
  for (const int32_t id : continuation) {
    const std::vector<float> logits = whole_logits(*model, text);
    double total = 0.0;
    for (const float logit : logits) total += std::exp(static_cast<double>(logit));
    nll += std::log(total) - logits[static_cast<size_t>(id)];
    text.push_back(id);
  }
  const Agreement a = agreement(*model, prompt, continuation);
  EXPECT_EQ(a.tokens, 8);
  EXPECT_EQ(a.likeliest, 7);
  EXPECT_NEAR(a.mean_nll, nll / 8, 1e-5);
  EXPECT_THROW(agreement(*model, prompt, {}), std::invalid_argument);
  // The last token is never read by the model, only looked up in its logits.
  expect_error<std::invalid_argument>(
      [&] {
        agreement(*model, prompt, {1, 40});
      },
      {"token 40", "vocabulary of 40"});
}

TEST(TextStream, GivesCharactersOnceTheyAreComplete) {
  const ByteTokenizer tokenizer;  // a token is a byte
  const std::string text = "a\xC3\xA9z\xF0\x9F\x98\x80!";
  TextStream stream(tokenizer, tokenizer.encode("start "));
  std::vector<std::string> pieces;
  for (const int32_t id : tokenizer.encode(text)) pieces.push_back(stream.add(id));
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "", "\xC3\xA9", "z", "", "", "",
                                              "\xF0\x9F\x98\x80", "!"}));
  EXPECT_EQ(stream.add(0xC3), "");
  EXPECT_EQ(stream.rest(), "\xC3") << "what stays unfinished is given at the end";
  EXPECT_EQ(stream.rest(), "");
}

}  // namespace
}  // namespace cbq::test_generation
