// Byte-level tokenizers against the ids of the library `tokenizers`
// (tools/fixtures/make_tokenizer_fixtures.py).
#include <nlohmann/json.hpp>

#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/text/tokenizer.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "nn/text/tokenizers/regex.h"
#include "nn/text/tokens.h"
#include "tests/test_data.h"

namespace cbq::test_byte_level {
namespace {

using Ids = std::vector<int32_t>;
namespace fs = std::filesystem;

fs::path fixtures() { return fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers"; }

std::string hash_of(const Ids& ids) {
  return hex(hash_bytes({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)}));
}

// ---- against the reference library --------------------------------------------------------------

class ByteLevelFamily : public ::testing::TestWithParam<const char*> {};

TEST_P(ByteLevelFamily, ReferenceVectors) {
  const auto tokenizer = load_tokenizer(fixtures() / (std::string(GetParam()) + ".json"));
  const auto vectors = read_json_file(fixtures() / "vectors.json")[GetParam()];
  ASSERT_GT(vectors.size(), 50u);
  for (const auto& vector : vectors) {
    const std::string text = vector["text"];
    const Ids ids = vector["ids"];
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->prefix(), vector["prefix"].get<Ids>());
    // What is not UTF-8 by itself is replaced by the library, and stays as it is here.
    const std::string decoded = vector["decoded"];
    if (decoded.find("\ufffd") != std::string::npos) continue;
    EXPECT_EQ(tokenizer->decode(ids), decoded);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ByteLevelFamily,
                         ::testing::Values("gpt2", "llama3", "qwen", "bloom"));

TEST(ByteLevel, MegabytesOfTextAsTheReferenceLibrary) {
  SKIP_WITHOUT_TEST_DATA();
  const auto corpora = read_json_file(fixtures() / "corpora.json");
  ASSERT_EQ(corpora.size(), 5u);
  size_t bytes = 0;
  for (const auto& [name, files] : corpora.items()) {
    const std::string family = name.substr(name.find('/') + 1);
    const auto tokenizer = load_tokenizer(
        name == "tokenizers/gpt2" ? test_data() / name : fixtures() / (family + ".json"));
    for (const auto& [file, expected] : files.items()) {
      const std::string text = read_text_file(test_data() / file);
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(ids.size(), expected["count"]) << name << " " << file;
      EXPECT_EQ(hash_of(ids), expected["hash"]) << name << " " << file;
      bytes += text.size();
    }
  }
  EXPECT_GT(bytes, 5u << 20);
}

TEST(ByteLevel, Gpt2Vectors) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(test_data() / "tokenizers/gpt2");
  const auto vectors = read_json_file(test_data() / "tokenizers/vectors/gpt2_vectors.json");
  ASSERT_EQ(vectors.size(), 44u);
  for (const auto& vector : vectors) {
    const std::string text = vector["text"];
    EXPECT_EQ(tokenizer->encode(text), vector["ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer->decode(vector["ids"]), text);
  }
  EXPECT_EQ(tokenizer->vocab_size(), 50257);
  EXPECT_EQ(tokenizer->bos_id(), 50256);
  EXPECT_EQ(tokenizer->eos_id(), 50256);
  EXPECT_TRUE(tokenizer->prefix().empty());
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>b"), (Ids{64, 50256, 65}));
  EXPECT_EQ(tokenizer->decode({64, 50256, 65}), "ab");
}

TEST(ByteLevel, WikitextCountsAsPublished) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(test_data() / "tokenizers/gpt2");
  const std::string text = read_text(test_data() / "wikitext-2/wiki.test.raw");
  EXPECT_EQ(tokenize(join_wikitext_rows(text), *tokenizer).size(), 287644u);
}

TEST(ByteLevel, EncodingIsFastEvenWithoutWords) {
  const auto tokenizer = load_tokenizer(fixtures() / "llama3.json");
  // One word of a megabyte: a loop over all pairs for each merge would take hours.
  for (const char* unit : {"e", " ", "der"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

// ---- families -----------------------------------------------------------------------------------

/// vocab.json and merges.txt of the small GPT-2, with the tokens that `more` adds.
void write_vocab_and_merges(const TemporaryFolder& folder, const nlohmann::json& more = {}) {
  const auto model = read_json_file(fixtures() / "gpt2.json")["model"];
  auto vocab = model["vocab"];
  for (const auto& [token, id] : more.items()) vocab[token] = id;
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : model["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  folder.write("vocab.json", vocab.dump());
  folder.write("merges.txt", merges);
}

TEST(ByteLevel, OptPutsItsBosInFront) {
  const TemporaryFolder folder;
  write_vocab_and_merges(folder, {{"</s>", 500}, {"<pad>", 501}});
  EXPECT_TRUE(load_tokenizer(folder.path())->prefix().empty()) << "GPT-2's rule";
  folder.write("config.json", R"({"model_type": "opt"})");
  EXPECT_EQ(load_tokenizer(folder.path())->prefix(), Ids{500});
  std::filesystem::remove(folder / "config.json");
  folder.write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": {"content":
      "</s>"}, "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"})");
  const auto opt = load_tokenizer(folder.path());
  EXPECT_EQ(opt->prefix(), Ids{500});
  EXPECT_EQ(opt->eos_id(), 500);
  EXPECT_EQ(tokenize("and", *opt)[0], 500);
  const Ids ids = opt->encode("a</s><pad>b");
  EXPECT_EQ(Ids(ids.begin() + 1, ids.end() - 1), (Ids{500, 501}));
}

TEST(ByteLevel, AFolderIsSearchedForItsTokenizer) {
  const TemporaryFolder folder;
  write_vocab_and_merges(folder);
  const auto from_parts = load_tokenizer(folder.path());
  EXPECT_EQ(load_tokenizer(folder / "merges.txt")->hash(), from_parts->hash());
  fs::copy_file(fixtures() / "qwen.json", folder / "tokenizer.json");
  const auto qwen = load_tokenizer(folder.path());
  EXPECT_NE(qwen->hash(), from_parts->hash());
  EXPECT_EQ(qwen->eos_id(), -1);
  folder.write("special_tokens_map.json", R"({"eos_token": {"content": "<|im_end|>"}})");
  EXPECT_GT(load_tokenizer(folder.path())->eos_id(), 0);
  EXPECT_EQ(tokenizer_files(folder.path()), (std::vector<fs::path>{folder / "tokenizer.json"}));
}

TEST(ByteLevel, Alphabet) {
  std::string all;
  for (int b = 0; b < 256; ++b) all += token_of_byte(static_cast<unsigned char>(b));
  const auto bytes = bytes_of_token(all);
  ASSERT_TRUE(bytes);
  for (int b = 0; b < 256; ++b) {
    EXPECT_EQ(static_cast<unsigned char>((*bytes)[static_cast<size_t>(b)]), b);
  }
  EXPECT_EQ(token_of_byte(' '), "\u0120");
  EXPECT_EQ(token_of_byte('\n'), "\u010a");
  EXPECT_FALSE(bytes_of_token(" "));
  EXPECT_FALSE(bytes_of_token("\u2581"));
  EXPECT_FALSE(bytes_of_token("\xc4"));
}

// ---- patterns -----------------------------------------------------------------------------------

TEST(Regex, NestedClassesAreUnions) {
  std::string words;
  Regex("[^(\\s|[.,])]+", "test").for_each_match("ab.c d|e(f)", [&](size_t begin, size_t end) {
    words += std::to_string(begin) + "-" + std::to_string(end) + " ";
  });
  EXPECT_EQ(words, "0-2 3-4 5-6 7-8 9-10 ");
}

TEST(Regex, WhatTheDialectsReadDifferentlyIsRefused) {
  for (const auto& [pattern, part] : {std::pair{"[a&&]", "&&"},
                                      {"[&&a]", "&&"},
                                      {"\\w+", "\\w"},
                                      {"\\h", "\\h"},
                                      {"(?m:a)", "(?m:"},
                                      {"a{2}+", "}+"},
                                      {"a{,2}", "{,"},
                                      {"a{2}?", "{n}?"},
                                      {"b(?i)c|A", "(?i)"},
                                      {"[[:alpha:]]", "[:"},
                                      {"a\\", "backslash"},
                                      {"[ab", "without an end"},
                                      {"(a", "cannot be compiled"}}) {
    expect_error<std::runtime_error>([&, p = std::string(pattern)] { Regex(p, "file.json"); },
                                     {"file.json", pattern, part});
  }
}

TEST(Regex, IntersectionsAndNegatedClassesWithinClasses) {
  const auto matches = [](const std::string& pattern, const std::string& text) {
    std::string found;
    Regex(pattern, "test").for_each_match(text, [&](size_t begin, size_t end) {
      found += text.substr(begin, end - begin) + " ";
    });
    return found;
  };
  EXPECT_EQ(matches("[a-e&&[^bd]]+", "abcdef"), "a c e ");
  EXPECT_EQ(matches("[^a-e&&[bd]]+", "abcdef"), "a c ef ");
  EXPECT_EQ(matches("[a[^b-z]]+", "abAzB"), "a A B ");
  EXPECT_EQ(matches("[a[-e]]+", "a-ec"), "a-e ") << "no range";
  EXPECT_EQ(matches("[\\p{L}&&[^\\p{Han}]]+", "ab\u6587c"), "ab c ");
  EXPECT_EQ(matches("\\p{Han}", "\u3002\u6587"), "\u6587 ") << "the script, not its extensions";
  EXPECT_EQ(matches("\\p{^Han}", "\u3002\u6587"), "\u3002 ");
}

TEST(Regex, ClassesNestedWithoutEndAreRefused) {
  for (const size_t depth : {size_t{40}, size_t{100000}}) {
    expect_error<std::runtime_error>([&] { Regex(std::string(depth, '['), "file.json"); },
                                     {"file.json", "nested deeper than 32"});
  }
  expect_error<std::runtime_error>([] { Regex(std::string(100000, '('), "file.json"); },
                                   {"file.json", "cannot be compiled"});
  // Backtracking without end gives up.
  const Regex slow("(?:a+)+[bc]", "file.json");
  expect_error<std::runtime_error>(
      [&] { slow.for_each_match(std::string(5000, 'a'), [](size_t, size_t) {}); },
      {"file.json", "splitting a text failed"});
}

TEST(Regex, NotEveryWhiteSpaceOfPcre2IsOne) {
  const std::string text = "a\u180eb\u2003c\u0085d";
  std::vector<size_t> ends;
  Regex("\\S+", "test").for_each_match(text, [&](size_t, size_t end) { ends.push_back(end); });
  EXPECT_EQ(ends, (std::vector<size_t>{5, 9, 12}));
}

TEST(Regex, EmptyMatchesGoOn) {
  int count = 0;
  Regex("a*", "test").for_each_match("baüab", [&](size_t, size_t) { ++count; });
  EXPECT_EQ(count, 2);
}

// ---- what is broken or not supported ------------------------------------------------------------

class BrokenTokenizer : public ::testing::Test {
 protected:
  nlohmann::json json_ = read_json_file(fixtures() / "llama3.json");
  TemporaryFolder folder_;
  void expect_refused(std::initializer_list<const char*> parts) {
    const fs::path file = folder_.write("tokenizer.json", json_.dump());
    expect_error<std::runtime_error>([&] { load_tokenizer(file); }, parts);
  }
};

TEST_F(BrokenTokenizer, WhatIsNotSupportedIsNamed) {
  const nlohmann::json whole = json_;
  const auto with = [&](const char* pointer, const nlohmann::json& value,
                        std::initializer_list<const char*> parts) {
    json_ = whole;
    json_[nlohmann::json::json_pointer(pointer)] = value;
    SCOPED_TRACE(pointer);
    expect_refused(parts);
  };
  with("/model/type", "Unigram", {"tokenizer.json", "Unigram", "not supported"});
  for (const int64_t id : {int64_t{1} << 21, (int64_t{1} << 31) - 1, int64_t{-1}}) {
    with("/added_tokens/0/id", id, {"added_tokens[0]", "[0, 2097151]", std::to_string(id).c_str()});
  }
  with("/model/vocab/!", (1 << 30), {"\"!\"", "[0, 2097151]", "1073741824"});
  const nlohmann::json far = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<far>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens",
       {{"<far>", {{"id", "<far>"}, {"ids", {1000000}}, {"tokens", {"<far>"}}}}}}};
  with("/post_processor", far, {"post_processor", "1000000", "vocabulary"});
  with("/model/dropout", 0.1, {"dropout"});
  with("/model/unk_token", "<none>", {"unk_token", "<none>"});
  with("/normalizer", {{"type", "Precompiled"}}, {"normalizer", "Precompiled", "tokenizer.model"});
  with("/normalizer", {{"type", "Prepend"}}, {"\"prepend\" is missing"});
  with("/pre_tokenizer", {{"type", "UnicodeScripts"}}, {"pre_tokenizer", "UnicodeScripts"});
  with("/pre_tokenizer", nullptr, {"ByteLevel", "no byte-level"});
  with("/pre_tokenizer/pretokenizers/0/behavior", "Merged", {"split behavior Merged"});
  with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\X+", {"\\X"});
  with("/post_processor", {{"type", "BertProcessing"}}, {"post_processor", "BertProcessing"});
  with("/post_processor/processors/1/single",
       nlohmann::json::parse(R"([{"Sequence": {"id": "A", "type_id": 0}},
                                 {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}])"),
       {"<|begin_of_text|>", "behind each text"});
}

TEST_F(BrokenTokenizer, WhatContradictsItselfIsNamed) {
  const nlohmann::json whole = json_;
  json_["model"]["merges"].push_back({"q", "\u0120zz"});
  expect_refused({"merge", "(q \u0120zz)", "token \u0120zz", "same model"});
  json_ = whole;
  json_["model"]["merges"].push_back("abc");
  expect_refused({"merge", "two tokens", "abc"});
  json_ = whole;
  json_["model"].erase("merges");
  expect_refused({"\"merges\" is missing"});
  json_ = whole;
  json_["model"]["vocab"]["a"] = -1;
  expect_refused({"\"a\"", "integer within"});
  json_ = whole;
  json_["model"]["vocab"]["a"] = 2000000000;
  expect_refused({"\"a\"", "2000000000", "integer within"});
  json_ = whole;
  json_["model"]["vocab"]["a"] = json_["model"]["vocab"]["b"];
  expect_refused({"two tokens have the id"});
  folder_.write("tokenizer.json", "{\"model\": ");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder_.path()); },
                                   {"tokenizer.json", "not valid JSON"});
}

TEST_F(BrokenTokenizer, AByteWithoutATokenIsNamed) {
  const std::string word = "Q";  // in no merge of the small vocabulary
  json_["model"]["vocab"].erase(word);
  const auto tokenizer = load_tokenizer(folder_.write("tokenizer.json", json_.dump()));
  EXPECT_NO_THROW(tokenizer->encode("abc"));
  expect_error<std::invalid_argument>([&] { tokenizer->encode("aQ"); },
                                      {"byte 81 (Q)", "no token"});
  expect_error<std::invalid_argument>([&] { tokenizer->encode("a\xff"); }, {"not UTF-8"});
}

TEST(ByteLevel, MissingAndBrokenMerges) {
  const TemporaryFolder folder;
  write_vocab_and_merges(folder);
  fs::rename(folder / "merges.txt", folder / "away");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"merges.txt", "No such file"});
  folder.write("merges.txt", "#version: 0.2\na b c\n");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"merges.txt, line 2", "a b c"});
  folder.write("merges.txt", "#version: 0.2\n");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); }, {"no merges"});
  fs::rename(folder / "away", folder / "merges.txt");
  folder.write("tokenizer_config.json", R"({"bos_token": "<bos>"})");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"<bos>", "not in the vocabulary"});
  folder.write("tokenizer_config.json", R"({"bos_token": 3})");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); }, {"bos_token"});
  folder.write("tokenizer_config.json", "{}");
  folder.write("vocab.json", "[]");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); }, {"vocab.json", "ids"});
}

TEST(ByteLevel, ATokenizerOfAnotherModelIsRefused) {
  const auto tokenizer = load_tokenizer(fixtures() / "bloom.json");
  EXPECT_NO_THROW(check_tokenizer_fits(*tokenizer, tokenizer->vocab_size(), "bloom.json"));
  EXPECT_NO_THROW(check_tokenizer_fits(*tokenizer, 1000, "bloom.json"));
  expect_error<std::invalid_argument>([&] { check_tokenizer_fits(*tokenizer, 459, "bloom.json"); },
                                      {"bloom.json has 460 tokens", "only 459", "another model"});
}

TEST(ByteLevel, SpecialTokensBeyondTheEmbeddingAreAllowed) {
  const TemporaryFolder folder;
  fs::copy_file(fixtures() / "bloom.json", folder / "tokenizer.json");
  folder.write("tokenizer_config.json", R"({"pad_token": "[PAD]"})");
  const auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), 461);
  EXPECT_EQ(tokenizer->text_vocab_size(), 460);
  EXPECT_NO_THROW(check_tokenizer_fits(*tokenizer, 460, "tokenizer.json"));
  EXPECT_EQ(tokenizer->encode("[PAD]"), Ids{460});
}

TEST(ByteLevel, CompanionsListTokensAsInTransformers) {
  const TemporaryFolder folder;
  fs::copy_file(fixtures() / "qwen.json", folder / "tokenizer.json");
  const auto plain = load_tokenizer(folder.path());
  const int32_t next = plain->vocab_size();
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"7000": {"content": "<|b|>", "special": true},
                   "6000": {"content": "<|a|>", "lstrip": true, "special": false}}})");
  const auto listed = load_tokenizer(folder.path());
  EXPECT_EQ(listed->encode("<|a|><|b|>"), (Ids{next, next + 1})) << "in the order of their ids";
  EXPECT_EQ(listed->encode("  <|a|>"), Ids{next});
  EXPECT_NE(listed->hash(), plain->hash());
  EXPECT_EQ(listed->decode({next, next + 1}), "<|a|>");
  folder.write("tokenizer_config.json", "{}");
  folder.write("added_tokens.json", R"({"<|c|>": 9000})");
  EXPECT_EQ(load_tokenizer(folder.path())->encode("<|c|>"), Ids{next});
  folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"tokenizer_config.json", "\"x\"", "no token id"});
}

TEST(ByteLevel, VocabAndMergesFollowTheModelsFamily) {
  const TemporaryFolder folder, copy;
  write_vocab_and_merges(folder);
  const std::string text = "it's 12345 e\u0301";
  const auto gpt2 = load_tokenizer(folder.path());
  folder.write("config.json", R"({"model_type": "qwen2"})");
  const auto qwen = load_tokenizer(folder.path());
  EXPECT_NE(qwen->hash(), gpt2->hash());
  EXPECT_EQ(qwen->encode("e\u0301"), gpt2->encode("\u00e9")) << "NFC";
  EXPECT_EQ(qwen->encode("1 2"), gpt2->encode("1 2"));
  copy_tokenizer(folder.path(), copy.path());
  EXPECT_EQ(load_tokenizer(copy.path())->hash(), qwen->hash()) << "without its config.json";
  EXPECT_EQ(load_tokenizer(copy.path())->encode(text), qwen->encode(text));
  folder.write("config.json", R"({"model_type": "llama"})");
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "CLIPTokenizer"})");
  expect_error<std::runtime_error>([&] { load_tokenizer(folder.path()); },
                                   {"CLIPTokenizer", "tokenizer.json"});
}

TEST(ByteLevel, TheCasesOfTheTestData) {
  SKIP_WITHOUT_TEST_DATA();
  const fs::path cases = test_data() / "cases";
  if (!fs::exists(cases)) GTEST_SKIP() << "the test data has no cases";
  // Ids: AutoTokenizer of transformers 5.24, encode(text, add_special_tokens=False).
  EXPECT_EQ(load_tokenizer(cases / "added-tokens-in-tokenizer-config")->encode("a<|im_sep|>b"),
            (Ids{67, 1500, 68}));
  EXPECT_EQ(load_tokenizer(cases / "qwen2-vocab-and-merges")->encode("12 34"),
            (Ids{19, 20, 223, 21, 22}));
  EXPECT_EQ(load_tokenizer(cases / "tokenizer-digits")->encode("12 34"),
            (Ids{19, 20, 223, 21, 22}));
  const auto tiktoken = load_tokenizer(cases / "tiktoken-model-beside-json");
  EXPECT_EQ(tiktoken->vocab_size(), 1502);
  EXPECT_EQ(tiktoken->prefix(), Ids{1500});
}

// ---- llama2.c's vocabulary ----------------------------------------------------------------------

TEST(Llama2c, ReproducesTheIdsOfTheStories) {
  SKIP_WITHOUT_TEST_DATA();
  const auto tokenizer = load_tokenizer(test_data() / "models/stories260K/tok512.bin");
  const auto reference = read_json_file(test_data() / "models/stories260K/reference.json");
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  ASSERT_EQ(reference["texts"].size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const std::string text = reference["texts"][i];
    const Ids ids = reference["ids"][i];
    EXPECT_EQ(tokenize(text, *tokenizer), ids);
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
}

TEST(Llama2c, BrokenFilesAreErrors) {
  SKIP_WITHOUT_TEST_DATA();
  const std::string whole = read_text_file(test_data() / "models/stories260K/tok512.bin");
  const TemporaryFolder folder;
  for (const size_t kept : {size_t{0}, size_t{3}, size_t{10}, whole.size() - 1, size_t{2000}}) {
    const auto path = folder.write("tok.bin", whole.substr(0, kept));
    expect_error<std::runtime_error>([&] { load_tokenizer(path); },
                                     {"tok.bin is not a vocabulary of llama2.c"});
  }
}

}  // namespace
}  // namespace cbq::test_byte_level
