#include "nn/formats/json.h"
#include "nn/text/tokenizer.h"
#include "tests/test_data.h"

namespace cbq::test_tokenizer {
namespace {

TEST(Tokenizer, ReferenceVectors) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(test_data() / "tokenizers/llama2_tokenizer.model");
  const auto vectors = read_json_file(test_data() / "tokenizers/vectors/llama2_spm_vectors.json");
  ASSERT_EQ(vectors.size(), 43u);
  for (const auto& vector : vectors) {
    const std::string text = vector["text"];
    EXPECT_EQ(tokenizer->encode(text), vector["ids"].get<std::vector<int32_t>>()) << text;
  }
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
}

TEST(Tokenizer, DecodesWhatItEncodes) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(test_data() / "tokenizers/llama2_tokenizer.model");
  for (const char* text : {"Hello world", "ü 4 ½ \n\n 日本 \xf0\x9f\x98\x80", "", "a  b"}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  // A zero byte and broken UTF-8 are text like any other.
  EXPECT_FALSE(tokenizer->encode(std::string_view("a\0b", 3)).empty());
  EXPECT_FALSE(tokenizer->encode("\xff\xfe").empty());
  for (const int32_t id : {-1, 32000, 1 << 30}) {
    expect_error<std::invalid_argument>(
        [&] {
          tokenizer->decode({5, id});
        },
        {"token id", "position 1", "32000 tokens"});
  }
}

TEST(Tokenizer, HashFollowsTheVocabulary) {
  SKIP_WITHOUT_TEST_DATA();
  const auto path = test_data() / "tokenizers/llama2_tokenizer.model";
  const TemporaryFolder folder;
  std::filesystem::copy_file(path, folder / "tokenizer.model");
  EXPECT_EQ(load_tokenizer(folder.path())->hash(), load_tokenizer(path)->hash());
  EXPECT_EQ(load_tokenizer(folder.path())->prefix(), std::vector<int32_t>{1});
  folder.write("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_TRUE(load_tokenizer(folder.path())->prefix().empty());
  const auto other = load_tokenizer(test_data() / "tokenizers/sentencepiece_test/test_model.model");
  EXPECT_NE(other->hash(), load_tokenizer(path)->hash());
  EXPECT_EQ(other->hash().size(), 16u);
}

TEST(Tokenizer, ControlTokensInATextAreFound) {
  SKIP_WITHOUT_TEST_DATA();
  using Ids = std::vector<int32_t>;
  const TemporaryFolder folder;
  std::filesystem::copy_file(test_data() / "tokenizers/llama2_tokenizer.model",
                             folder / "tokenizer.model");
  // Ids: AutoTokenizer of transformers 5.24 with a LLaMA's config.json.
  const auto plain = load_tokenizer(folder.path());
  EXPECT_EQ(plain->encode("a <unk> , b"), (Ids{263, 29871, 0, 29871, 1919, 289}));
  EXPECT_EQ(plain->encode("a<s>b"), (Ids{263, 1, 289}));
  EXPECT_EQ(plain->encode(" hello"), (Ids{29871, 22172}));
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  const auto llama = load_tokenizer(folder.path());
  EXPECT_EQ(llama->encode("a <unk> , b"), (Ids{263, 29871, 0, 1919, 289}));
  EXPECT_EQ(llama->encode("<s>hello"), (Ids{1, 12199}));
  EXPECT_EQ(llama->encode("a<s>b"), (Ids{263, 1, 29890}));
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "legacy": true,
      "added_tokens_decoder": {"32000": {"content": "<tool>", "special": false}}})");
  const auto legacy = load_tokenizer(folder.path());
  EXPECT_EQ(legacy->encode("<s>hello"), (Ids{1, 22172}));
  EXPECT_EQ(legacy->encode("a</s> b"), (Ids{263, 2, 289}));
  EXPECT_EQ(legacy->encode("<tool>")[0], 32000);
  EXPECT_EQ(legacy->decode({22172, 32000, 22172}), "hello<tool>hello");
}

TEST(Tokenizer, AVocabularyOfTiktokenIsNoSentencepieceModel) {
  const TemporaryFolder folder;
  folder.write("tokenizer.model", "AA== 0\nAQ== 1\n");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"tokenizer.model", "tiktoken", "tokenizer.json"});
}

TEST(Tokenizer, MissingAndBrokenModels) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { load_tokenizer(folder / "none.model"); },
                                   {"none.model", "No such file"});
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"no tokenizer in", "tokenizer.model", "token ids instead"});
  for (const std::string& bytes : {std::string(), std::string("not a model"),
                                   std::string(1000, '\xff'), std::string("\n\0", 2)}) {
    folder.write("tokenizer.model", bytes);
    expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                     {"tokenizer.model is not a sentencepiece model", "fetch"});
  }
}

TEST(Tokenizer, TruncatedModelsAreErrors) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string whole = read_text_file(test_data() / "tokenizers/llama2_tokenizer.model");
  const TemporaryFolder folder;
  for (const size_t kept : {whole.size() - 1, whole.size() / 2 + 3, size_t{100}}) {
    const auto path = folder.write("tokenizer.model", whole.substr(0, kept));
    expect_error<std::runtime_error>([&] { load_tokenizer(path); }, {"not a sentencepiece model"});
  }
}

}  // namespace
}  // namespace cbq::test_tokenizer
