// Sentencepiece vocabularies in GGUF files: as tokenizer.model, which Google's library reads, and
// as tokenizer.json, which must give the same ids.
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <map>

#include "nn/formats/json.h"
#include "nn/gguf/gguf_tokenizer.h"
#include "nn/text/tokenizer.h"
#include "tests/gguf_writer.h"
#include "tests/test_data.h"

namespace cbq::test::test_gguf_sentencepiece {
namespace {

/// Pieces with types (as PieceType numbers them) and falling scores.
struct Pieces {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> scores = {0, 0, 0};

  Pieces& add(const std::string& token, int32_t type = 1) {
    tokens.push_back(token);
    types.push_back(type);
    scores.push_back(-static_cast<float>(scores.size()));
    return *this;
  }
  GgufBytes bytes(bool names_ids = true) const {
    GgufBytes b;
    b.text("general.architecture", "llama").text("tokenizer.ggml.model", "llama");
    b.texts("tokenizer.ggml.tokens", tokens).integers("tokenizer.ggml.token_type", types);
    b.reals("tokenizer.ggml.scores", scores);
    if (!names_ids) return b;
    return b.number("tokenizer.ggml.bos_token_id", 1).number("tokenizer.ggml.eos_token_id", 2);
  }
};

std::map<std::string, std::string> files_of(const GgufBytes& bytes) {
  const TemporaryFolder folder;
  return gguf_tokenizer_files(GgufFile::open(folder.write("m.gguf", bytes.bytes())));
}

/// A tokenizer of one of the files alone.
std::unique_ptr<Tokenizer> tokenizer_of_file(const std::map<std::string, std::string>& files,
                                             const std::string& name) {
  const TemporaryFolder folder;
  return load_tokenizer(folder.write(name, files.at(name)));
}

TEST(GgufSentencepiece, BeginAndEndOfTextKeepTheirIdsUnderAnyName) {
  Pieces pieces;
  pieces.tokens = {"<unk>", "<|begin|>", "<|end|>"};
  pieces.add("\u2581").add("a").add("\u2581a");
  for (const bool names_ids : {true, false}) {  // llama.cpp's defaults are 1 and 2
    const auto files = files_of(pieces.bytes(names_ids));
    for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
      SCOPED_TRACE(name);
      const auto tokenizer = tokenizer_of_file(files, name);
      EXPECT_EQ(tokenizer->prefix(), std::vector<int32_t>{1});
      EXPECT_EQ(tokenizer->encode("a"), std::vector<int32_t>{5});
    }
    const auto model = tokenizer_of_file(files, "tokenizer.model");
    EXPECT_EQ(model->bos_id(), 1);
    EXPECT_EQ(model->eos_id(), 2);
    EXPECT_EQ(model->encode("a<|end|>"), (std::vector<int32_t>{5, 2}));
  }
}

TEST(GgufSentencepiece, TokensThatTheSettingsNameReplaceThoseOfTheModel) {
  const TemporaryFolder folder;
  Pieces pieces;
  pieces.add("<|end|>", 3).add("<|begin|>", 3).add("\u2581").add("a");
  folder.write("tokenizer.model", files_of(pieces.bytes()).at("tokenizer.model"));
  const auto plain = load_tokenizer(folder.path());
  EXPECT_EQ(plain->bos_id(), 1);
  EXPECT_EQ(plain->eos_id(), 2);
  folder.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "<|end|>"})");
  const auto other_end = load_tokenizer(folder.path());
  EXPECT_EQ(other_end->bos_id(), 1);
  EXPECT_EQ(other_end->eos_id(), 3);
  EXPECT_EQ(other_end->hash(), plain->hash());
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<|begin|>", "eos_token": {"content": "<|stop|>"}})");
  const auto other_begin = load_tokenizer(folder.path());
  EXPECT_EQ(other_begin->bos_id(), 4);
  EXPECT_EQ(other_begin->prefix(), std::vector<int32_t>{4});
  EXPECT_EQ(other_begin->eos_id(), 7) << "a token behind the model's pieces";
  EXPECT_NE(other_begin->hash(), plain->hash());
}

TEST(GgufSentencepiece, BothFilesGiveTheSameIds) {
  Pieces pieces;
  for (const char* token : {"\u2581", "a", "b", "ab", "aa", "ba", "aba", "aaa", "\u2581a", "aaaa",
                            "\u2581\u2581", "abab", "\u2581\u2581\u2581"}) {
    pieces.add(token);
  }
  const auto files = files_of(pieces.bytes());
  ASSERT_TRUE(files.contains("tokenizer.json"));
  const auto model = tokenizer_of_file(files, "tokenizer.model");
  const auto json_file = tokenizer_of_file(files, "tokenizer.json");
  for (int length = 0; length <= 9; ++length) {
    int count = 1;
    for (int i = 0; i < length; ++i) count *= 3;
    for (int number = 0; number < count; ++number) {
      std::string text;
      for (int i = 0, rest = number; i < length; ++i, rest /= 3) text += "ab "[rest % 3];
      ASSERT_EQ(json_file->encode(text), model->encode(text)) << '"' << text << '"';
    }
  }
}

// What a tokenizer.json cannot express is left to tokenizer.model, which Google's library reads.
TEST(GgufSentencepiece, TokenizerJsonIsLeftOutWhereItsIdsWouldDiffer) {
  using Ids = std::vector<int32_t>;
  Pieces ties;
  ties.add("\u2581").add("a").add("b").add("ab").add("ba");
  ties.scores[6] = ties.scores[7];
  const auto one_score = files_of(ties.bytes());
  EXPECT_FALSE(one_score.contains("tokenizer.json"));
  // Of two pairs of one score the leftmost, whatever their order in the vocabulary.
  EXPECT_EQ(tokenizer_of_file(one_score, "tokenizer.model")->encode("aba"), (Ids{3, 6, 4}));
  EXPECT_EQ(tokenizer_of_file(one_score, "tokenizer.model")->encode("bab"), (Ids{3, 7, 5}));

  Pieces missing;  // "x" is no token, "xy" is one
  missing.add("\u2581").add("y").add("xy");
  const auto files = files_of(missing.bytes());
  EXPECT_FALSE(files.contains("tokenizer.json"));
  EXPECT_EQ(tokenizer_of_file(files, "tokenizer.model")->encode("xyx"), (Ids{3, 5, 0}));
}

TEST(GgufSentencepiece, BothFilesOfLlama2GiveTheIdsOfItsModel) {
  SKIP_WITHOUT_TEST_DATA();
  const auto path = test_data() / "tokenizers/llama2_tokenizer.model";
  sentencepiece::SentencePieceProcessor processor;
  ASSERT_TRUE(processor.Load(path.string()).ok());
  Pieces pieces;
  pieces.tokens.clear();
  pieces.types.clear();
  pieces.scores.clear();
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    pieces.add(processor.IdToPiece(id), processor.IsUnknown(id)   ? 2
                                        : processor.IsControl(id) ? 3
                                        : processor.IsByte(id)    ? 6
                                                                  : 1);
    pieces.scores.back() = processor.GetScore(id);
  }
  const auto files = files_of(pieces.bytes());
  ASSERT_TRUE(files.contains("tokenizer.json"));
  const auto model = tokenizer_of_file(files, "tokenizer.model");
  const auto json_file = tokenizer_of_file(files, "tokenizer.json");
  for (const auto& vector :
       read_json_file(test_data() / "tokenizers/vectors/llama2_spm_vectors.json")) {
    const std::string text = vector["text"];
    const auto ids = vector["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(model->encode(text), ids) << text;
    EXPECT_EQ(json_file->encode(text), ids) << text;
  }
}

}  // namespace
}  // namespace cbq::test::test_gguf_sentencepiece
