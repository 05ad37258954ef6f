// Tokenizers as fields of a GGUF file, and back.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nn/formats/json.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/gguf/gguf_tokenizer_writer.h"
#include "nn/text/tokenizer.h"
#include "tests/test_data.h"

namespace cbq::test::test_gguf_tokenizer_writer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path gguf_fixture(const std::string& name) {
  return fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/gguf" / name;
}

/// The tokenizer of a file that the Python package gguf wrote, as a folder, and back.
TEST(GgufTokenizerFields, AreThoseOfTheFileThatTheFolderWasMadeFrom) {
  for (const char* name : {"llama", "qwen3"}) {
    SCOPED_TRACE(name);
    const TemporaryFolder folder;
    const GgufFile file = GgufFile::open(gguf_fixture(std::string(name) + ".gguf"));
    for (const auto& [file_name, text] : gguf_tokenizer_files(file)) folder.write(file_name, text);
    const std::string prefix = "tokenizer.ggml.";
    const auto tokens = static_cast<int64_t>(file.texts(prefix + "tokens").size());
    const GgufTokenizer t = read_gguf_tokenizer(folder.path(), tokens);
    EXPECT_EQ(t.model, file.text(prefix + "model"));
    EXPECT_EQ(t.pre, file.text(prefix + "pre", "default"));
    EXPECT_EQ(t.tokens, file.texts(prefix + "tokens"));
    const std::vector<int64_t> types = file.integers(prefix + "token_type", 1, 6);
    EXPECT_EQ(t.types, std::vector<int32_t>(types.begin(), types.end()));
    EXPECT_EQ(t.bos, file.integer(prefix + "bos_token_id", 0, tokens));
    EXPECT_EQ(t.eos, file.integer(prefix + "eos_token_id", 0, tokens));
    if (t.model == "gpt2") {
      EXPECT_EQ(t.merges, file.texts(prefix + "merges"));
    } else {
      const std::vector<double> scores = file.numbers(prefix + "scores");
      ASSERT_EQ(t.scores.size(), scores.size());
      for (size_t i = 0; i < scores.size(); ++i) EXPECT_FLOAT_EQ(t.scores[i], scores[i]);
    }
    if (file.has(prefix + "add_bos_token")) {
      EXPECT_EQ(t.adds_bos, file.flag(prefix + "add_bos_token", true));
    }
  }
}

TEST(GgufTokenizerFields, AListIsFilledUpToTheEmbedding) {
  const fs::path embedded = fs::path(CBQ_SOURCE_DIR) / "models/embedded";
  const GgufTokenizer t = read_gguf_tokenizer(embedded, 2056);
  ASSERT_EQ(t.tokens.size(), 2056u);
  EXPECT_EQ(t.types.back(), 5);
  EXPECT_EQ(t.scores.size(), 2056u);
  expect_error<std::runtime_error>([&] { read_gguf_tokenizer(embedded, 2000); },
                                   {"2048 tokens", "2000"});
}

TEST(GgufTokenizerFields, ARuleWithoutANameIsRefused) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json",
               R"({"pre_tokenizer": {"type": "Whitespace"},
                   "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})");
  expect_error<std::runtime_error>([&] { read_gguf_tokenizer(folder.path(), 1); },
                                   {"tokenizer.json", "no name for the rule", "llama-bpe"});
}

/// Files with tokenizers of other people: written and read back they give the same ids.
class GgufTokenizerData : public ::testing::Test {
 protected:
  void expect_same_ids(const fs::path& tokenizer, int64_t vocab_size, const fs::path& vectors) {
    const TemporaryFolder folder;
    GgufWriter writer(folder / "m.gguf");
    writer.text("general.architecture", "llama");
    write_gguf_tokenizer(read_gguf_tokenizer(tokenizer, vocab_size), writer);
    writer.finish();
    fs::create_directories(folder / "t");
    const GgufFile file = GgufFile::open(folder / "m.gguf");
    for (const auto& [name, text] : gguf_tokenizer_files(file)) folder.write("t/" + name, text);
    const auto before = load_tokenizer(tokenizer), after = load_tokenizer(folder / "t");
    const json all = read_json_file(vectors);
    size_t texts = 0;
    for (const json& vector : all.is_array() ? all : all.at("vectors")) {
      const std::string text = vector.at("text");
      EXPECT_EQ(after->encode(text), before->encode(text)) << text;
      ++texts;
    }
    EXPECT_GT(texts, 20u);
  }
};

TEST_F(GgufTokenizerData, Llama2sSentencepiece) {
  SKIP_WITHOUT_TEST_DATA();
  const fs::path data = test_data() / "tokenizers";
  expect_same_ids(data / "llama2_tokenizer.model", 32000, data / "vectors/llama2_spm_vectors.json");
}
TEST_F(GgufTokenizerData, Gpt2sVocabularyAndMerges) {
  SKIP_WITHOUT_TEST_DATA();
  const fs::path data = test_data() / "tokenizers";
  expect_same_ids(data / "gpt2", 50257, data / "vectors/gpt2_vectors.json");
}

}  // namespace
}  // namespace cbq::test::test_gguf_tokenizer_writer
