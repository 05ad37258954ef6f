// Segments as GPTQ's scripts draw them: documents and places printed by those loops in
// CPython 3.11.
#include <ctime>
#include <numeric>

#include "nn/formats/json.h"
#include "nn/perplexity.h"
#include "nn/text/gptq_samples.h"
#include "tests/byte_tokenizer.h"
#include "tests/test_data.h"

namespace cbq::test_gptq_samples {
namespace {

using Segments = std::vector<std::vector<int32_t>>;

int32_t id_of(int64_t document, int64_t place) {
  return static_cast<int32_t>(33 + (document * 31 + place) % 90);
}

/// 40 documents of 1, 4, 7, ..., 31, 1, 4, ... characters.
Documents small_documents(const TemporaryFolder& folder, const std::string& name = "a.jsonl") {
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    std::string text;
    for (int j = 0; j < 3 * (i % 11) + 1; ++j) text += static_cast<char>(id_of(i, j));
    lines += nlohmann::json({{"text", text}, {"url", "none"}}).dump() + "\n";
    if (i % 9 == 0) lines += "\n";
  }
  return Documents::read({folder.write(name, lines)});
}

Segments expected(const std::vector<std::pair<int, int>>& places, int length) {
  Segments segments;
  for (const auto& [document, place] : places) {
    auto& segment = segments.emplace_back();
    for (int j = 0; j < length; ++j) segment.push_back(id_of(document, place + j));
  }
  return segments;
}

TEST(GptqSamples, DocumentsAndPlacesAsPythonDrawsThem) {
  const TemporaryFolder folder;
  const Documents documents = small_documents(folder);
  ASSERT_EQ(documents.count(), 40);
  const TokenSet a = gptq_document_segments(documents, ByteTokenizer(), 12, 16, 0);
  EXPECT_EQ(a.segments, expected({{32, 7},
                                  {19, 7},
                                  {32, 2},
                                  {18, 1},
                                  {6, 2},
                                  {9, 4},
                                  {6, 2},
                                  {21, 7},
                                  {6, 1},
                                  {20, 9},
                                  {30, 7},
                                  {39, 1}},
                                 16));
  // The documents of the same draw: statistics take what comes from one of them together.
  EXPECT_EQ(a.documents, (std::vector<int64_t>{32, 19, 32, 18, 6, 9, 6, 21, 6, 20, 30, 39}));
  const TokenSet b = gptq_document_segments(documents, ByteTokenizer(), 12, 20, 7);
  EXPECT_EQ(b.segments, expected({{20, 2},
                                  {32, 3},
                                  {7, 0},
                                  {8, 2},
                                  {9, 1},
                                  {19, 4},
                                  {31, 6},
                                  {20, 7},
                                  {29, 1},
                                  {19, 1},
                                  {19, 4},
                                  {31, 5}},
                                 20));
  EXPECT_EQ(a.protocol, "12 segments of 16 from random documents, seed 0 (GPTQ's draw)");
  EXPECT_FALSE(a.source_hash.empty());
  expect_error<std::invalid_argument>(
      [&] { gptq_document_segments(documents, ByteTokenizer(), 1, 31, 0); },
      {"none of the 40 documents", "more than 31 tokens", "--segment-length"});
  EXPECT_EQ(gptq_document_segments(documents, ByteTokenizer(), 1, 30, 0).count(), 1);
}

TEST(GptqSamples, PlacesInOneTextAsPythonDrawsThem) {
  std::vector<int32_t> ids(1000);
  std::iota(ids.begin(), ids.end(), 0);
  const TokenSet set = gptq_text_segments(ids, 8, 64, 3);
  std::vector<int32_t> first;
  for (const auto& segment : set.segments) {
    ASSERT_EQ(segment.size(), 64u);
    first.push_back(segment[0]);
  }
  EXPECT_EQ(first, (std::vector<int32_t>{243, 606, 557, 133, 378, 618, 485, 640}));
  expect_error<std::invalid_argument>([&] { gptq_text_segments(ids, 1, 1000, 0); },
                                      {"1000 tokens", "more than one segment"});
  EXPECT_EQ(gptq_text_segments(ids, 1, 999, 0).segments[0][0], 0);
}

TEST(GptqSamples, C4NewJoinsTheFirstDocuments) {
  const TemporaryFolder folder;
  const Documents documents = Documents::read(
      {folder.write("a.json", "{\"text\": \"ab\"}\n{\"text\": \"cd\"}\n{\"text\": \"efg\"}")});
  EXPECT_EQ(c4_new_segments(documents, ByteTokenizer(), 3).segments,
            (Segments{{'a', 'b', ' '}, {'c', 'd', ' '}, {'e', 'f', 'g'}}));
}

// ---- documents ----------------------------------------------------------------------------------

TEST(Documents, CompressedFilesAreReadAlike) {
  const TemporaryFolder folder;
  const Documents plain = small_documents(folder);
  ASSERT_EQ(std::system(("gzip -k " + (folder / "a.jsonl").string()).c_str()), 0);
  const Documents compressed = Documents::read({folder / "a.jsonl.gz"});
  ASSERT_EQ(compressed.count(), plain.count());
  for (int64_t i = 0; i < plain.count(); ++i) EXPECT_EQ(compressed.text(i), plain.text(i));
  EXPECT_EQ(compressed.hash(), plain.hash());
  EXPECT_EQ(Documents::read({folder / "a.jsonl", folder / "a.jsonl.gz"}).count(), 80);
  const std::string whole = read_text_file(folder / "a.jsonl.gz");
  folder.write("b.gz", whole.substr(0, whole.size() / 2));
  expect_error<std::runtime_error>([&] { Documents::read({folder / "b.gz"}); },
                                   {"b.gz", "truncated"});
  std::string broken = whole;
  broken[whole.size() / 2] ^= 0x55;
  folder.write("c.gz", broken);
  expect_error<std::runtime_error>([&] { Documents::read({folder / "c.gz"}); }, {"c.gz"});
  expect_error<std::runtime_error>([&] { Documents::read({folder / "a.jsonl.gz"}, 1000); },
                                   {"more than the 1000 bytes"});
}

TEST(Documents, TimeIsProportionalToTheBytesForEveryLineEnd) {
  const TemporaryFolder folder;
  for (const char* end : {"\r", "\n", "\r\n"}) {
    constexpr int64_t count = 600'000;
    std::string lines;
    for (int64_t i = 0; i < count; ++i) lines += std::string("{}") + end;
    const std::clock_t begin = std::clock();
    EXPECT_EQ(Documents::read({folder.write("a.jsonl", lines)}).count(), count);
    EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 4.0);
  }
}

TEST(Documents, TheLimitHoldsForAllFilesTogether) {
  const TemporaryFolder folder;
  const std::string row = "{\"text\": \"x\"}";  // no newline at its end: one is added
  const auto a = folder.write("a.jsonl", row), b = folder.write("b.jsonl", row);
  EXPECT_EQ(Documents::read({a}, row.size()).count(), 1);
  for (const size_t limit : {row.size(), row.size() + 1, 2 * row.size()}) {
    expect_error<std::runtime_error>(
        [&] {
          Documents::read({a, b}, limit);
        },
        {"b.jsonl", "holds more than"});
  }
  EXPECT_EQ(Documents::read({a, b}, 2 * row.size() + 1).count(), 2);
}

TEST(Documents, WhatIsMissingIsNamed) {
  const TemporaryFolder folder;
  expect_error<std::runtime_error>([&] { Documents::read({folder / "none"}); },
                                   {"none", "No such file"});
  expect_error<std::runtime_error>([&] { Documents::read({folder.write("a", " \n\n")}); },
                                   {"no documents"});
  const Documents documents =
      Documents::read({folder.write("b.jsonl", "{\"text\": \"x\"}\n\n{\"txt\": \"y\"}\n{\n")});
  EXPECT_EQ(documents.text(0), "x");
  expect_error<std::runtime_error>([&] { documents.text(1); }, {"b.jsonl, line 3", "\"text\""});
  expect_error<std::runtime_error>([&] { documents.text(2); }, {"b.jsonl, line 4", "JSON"});
}

TEST(Documents, LinesThatAreNoJsonAreLeftOut) {
  const TemporaryFolder folder;
  const Documents documents = Documents::read({folder.write(
      "b.jsonl", "{\"text\": \"x\\r\\n\"}\r\n{\"text\": \"\\ud83d\"}\r{\"text\": \"y\"}\n")});
  ASSERT_EQ(documents.count(), 3);
  ::testing::internal::CaptureStderr();
  SkippedRows skipped("b.jsonl");
  EXPECT_EQ(documents.try_text(0, &skipped), "x\r\n") << "escapes are no line ends";
  EXPECT_EQ(documents.try_text(1, &skipped), std::nullopt);
  EXPECT_EQ(documents.try_text(2, &skipped), "y");
  skipped.report(documents.count());
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(warnings.find("b.jsonl, line 2"), std::string::npos) << warnings;
  EXPECT_NE(warnings.find("1 of 3 rows"), std::string::npos) << warnings;
}

// ---- perplexities against a program of its own
// ---------------------------------------------------

TEST(GptqSamples, PerplexitiesOfStories260kAsTheReference) {
  SKIP_WITHOUT_TEST_DATA();
  const auto reference = read_json_file(std::filesystem::path(CBQ_SOURCE_DIR) /
                                        "tests/fixtures/scores_stories260k.json");
  const auto model = load_model(test_data() / "models/stories260K_hf", Dtype::f32, Device::cpu());
  const auto tokenizer = load_tokenizer(test_data() / "models/stories260K/tok512.bin");
  const auto& wikitext = reference["wikitext2"];
  const std::string text = read_text(test_data() / "wikitext-2/wiki.test.raw");
  const std::vector<int32_t> ids = tokenize(join_wikitext_rows(text), *tokenizer);
  EXPECT_EQ(ids.size(), wikitext["ids"]);
  const TokenSet test =
      consecutive_segments(ids, wikitext["length"]).slice(0, wikitext["segments"]);
  const PerplexityResult first = perplexity(*model, test.segments);
  EXPECT_EQ(first.tokens, wikitext["tokens"]);
  EXPECT_NEAR(first.mean_nll(), wikitext["mean_nll"], 1e-5);
  const auto& c4 = reference["c4_validation"];
  const TokenSet validation =
      gptq_document_segments(Documents::read({test_data() / "webtext/c4_en_sample_30docs.jsonl"}),
                             *tokenizer, c4["segments"], c4["length"], 0);
  int64_t checksum = 0, number = 0;
  for (const auto& segment : validation.segments) {
    checksum += std::accumulate(segment.begin(), segment.end(), int64_t{0}) * ++number;
  }
  EXPECT_EQ(checksum, c4["checksum"]);
  const PerplexityResult second = perplexity(*model, validation.segments);
  EXPECT_EQ(second.tokens, c4["tokens"]);
  EXPECT_NEAR(second.mean_nll(), c4["mean_nll"], 1e-5);
}

}  // namespace
}  // namespace cbq::test_gptq_samples
