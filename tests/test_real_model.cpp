// SmolLM2-135M-Instruct, which ./setup.sh smollm2 makes, beside the library transformers.
#include <gtest/gtest.h>

#include "experiments/inputs.h"
#include "nn/perplexity.h"
#include "nn/text/tokens.h"
#include "tests/test_data.h"

namespace cbq::test_real_model {
namespace {

std::filesystem::path real_model() {
  return std::filesystem::path(CBQ_SOURCE_DIR) / "build/models/smollm2-135m";
}

#define SKIP_WITHOUT_REAL_MODEL()                             \
  if (!std::filesystem::exists(real_model() / "config.json")) \
  GTEST_SKIP() << "no " << real_model().string() << ": ./setup.sh smollm2 makes it"

TEST(RealModel, HasANameForPrograms) {
  EXPECT_EQ(std::filesystem::absolute(model_folder("smollm2", CBQ_SOURCE_DIR)).lexically_normal(),
            real_model());
  EXPECT_EQ(model_folder("some/folder", CBQ_SOURCE_DIR), "some/folder");
  const TemporaryFolder folder;
  expect_error<std::runtime_error>(
      [&] { require_file(folder / "config.json", "model", "./setup.sh smollm2 makes it"); },
      {"config.json", "./setup.sh smollm2 makes it"});
}

// By `tokenizers` 0.23.3 with the pre-tokenizers Digits(individual_digits=True) and
// ByteLevel(add_prefix_space=False), as the model's authors have them.
TEST(RealModel, TokenizesAsTokenizersDoes) {
  SKIP_WITHOUT_REAL_MODEL();
  const auto tokenizer = load_tokenizer(real_model());
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->prefix().empty());
  EXPECT_EQ(tokenizer->encode("In 2024, x2 was 3.14 \n\n 5!<|im_end|>"),
            (std::vector<int32_t>{788, 216, 34, 32, 34, 36,  28,   1792, 34, 436,
                                  216, 35,  30, 33, 36, 216, 8866, 37,   17, 2}));
  SKIP_WITHOUT_TEST_DATA();
  const auto count = [&](const std::string& text) { return tokenize(text, *tokenizer).size(); };
  EXPECT_EQ(count(join_wikitext_rows(read_text(test_data() / "wikitext-2/wiki.test.raw"))),
            304978u);
  EXPECT_EQ(count(read_text(test_data() / "wikitext-2/wiki.valid.tokens")), 273868u);
}

// transformers 5.24.0 with torch 2.15.0, f32, on the converted folder,
// the first 512 ids of the text.
TEST(RealModel, ScoresAsTransformersDoesOnARealModel) {
  SKIP_WITHOUT_REAL_MODEL();
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(real_model());
  const std::vector<int32_t> ids =
      tokenize(join_wikitext_rows(read_text(test_data() / "wikitext-2/wiki.test.raw")), *tokenizer);
  const TokenSet segments = consecutive_segments(ids, 512);
  const auto model = load_model(real_model(), Dtype::f32, Device::cpu());
  EXPECT_NEAR(perplexity(*model, {segments.segments[0]}).mean_nll(), 3.09024922, 2e-6);
}

}  // namespace
}  // namespace cbq::test_real_model
