// cbq data, and cbq evaluate --tasks, as a user runs them.
#include <nlohmann/json.hpp>

#include "nn/text/python_random.h"
#include "nn/text/tokens.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_cli_tasks {
namespace {

namespace fs = std::filesystem;

/// A random model whose folder has a byte-level tokenizer of 460 tokens.
class CliTaskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = tiny_config(1);
    config.vocab_size = 460;
    config.max_position_embeddings = 64;
    save_model(*tiny_model(config), path("model"), Dtype::f32);
    fs::copy_file(fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers/bloom.json",
                  folder_ / "model/tokenizer.json");
    for (const char* name : {"data", "data/piqa", "data/ethics"}) fs::create_directory(path(name));
    folder_.write(
        "data/piqa/valid.jsonl",
        "{\"goal\": \"Cool soup\", \"sol1\": \"Blow.\", \"sol2\": \"Heat it.\", \"label\": 0}\n"
        "{\"goal\": \"Cut wood\", \"sol1\": \"Sing.\", \"sol2\": \"Saw it.\", \"label\": 1}\n");
    for (const char* name : {"deontology", "justice", "virtue", "cm"}) {
      folder_.write(
          std::string("data/ethics/") + name + "_test.csv",
          "label,scenario,input,excuse\n1,\"I ate, [SEP] b\",I ate,so\n0,a [SEP] b,c,d\n");
    }
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  RunOfCbq evaluate(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"evaluate", path("model"), "--device", "cpu"};
    all.insert(all.end(), more.begin(), more.end());
    return cbq(all);
  }
  void expect_refused(const std::vector<std::string>& more,
                      std::initializer_list<const char*> parts) const {
    const RunOfCbq run = evaluate(more);
    EXPECT_EQ(run.code, 1) << run.out;
    expect_in(run.err, parts);
  }
  TemporaryFolder folder_;
};

TEST_F(CliTaskTest, TasksArePrintedAndWritten) {
  const RunOfCbq run = evaluate({"--tasks", "piqa,ethics", "--task-data", path("data"), "--json",
                                 path("r.json"), "--samples", path("s.jsonl")});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out,
            {"piqa", "acc_norm", "2 of 2 items, zero-shot, joint encoding", "ethics (mean of 4)"});
  expect_in(run.err, {"ETHICS without utilitarianism", "tools/prepare_tasks.py"});
  const auto json = json_of(path("r.json"));
  EXPECT_TRUE(json["results"]["piqa"].contains("acc_norm_stderr,none"));
  EXPECT_EQ(json["n-samples"]["ethics_virtue"]["effective"], 2);
  EXPECT_EQ(json["config"]["model"], path("model"));
  // The samples as a request file's scores: the same numbers by another way.
  const std::string lines = bytes_of(path("s.jsonl"));
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2 * 2 + 4 * 2 * 2);
  const auto first = nlohmann::json::parse(lines.substr(0, lines.find('\n')));
  nlohmann::json request = {{"task", "piqa"},
                            {"doc_id", 0},
                            {"idx", 0},
                            {"context", "Question: Cool soup\nAnswer:"},
                            {"continuation", " Blow."}};
  folder_.write("requests.jsonl", request.dump() + "\n");
  const RunOfCbq again =
      evaluate({"--tasks", path("requests.jsonl"), "--samples", path("t.jsonl")});
  ASSERT_EQ(again.code, 0) << again.err;
  expect_in(again.out, {"no right choices given"});
  EXPECT_NEAR(json_of(path("t.jsonl"))["loglikelihood"], first["loglikelihood"], 1e-4);
}

TEST_F(CliTaskTest, BlockwiseScoresAreThoseOfTheModelInMemory) {
  ModelConfig config = tiny_config(3);
  config.vocab_size = 460;
  config.max_position_embeddings = 64;
  save_model(*tiny_model(config), path("model"), Dtype::f32);
  for (const char* load : {"whole", "blockwise"}) {
    const RunOfCbq run =
        evaluate({"--tasks", "piqa,ethics", "--task-data", path("data"), "--load", load,
                  "--pass-tokens", "20", "--samples", path(std::string(load) + ".jsonl"), "--json",
                  path(std::string(load) + ".json")});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.err.find("blocks are loaded when they are needed") != std::string::npos,
              load == std::string("blockwise"))
        << run.err;
  }
  EXPECT_EQ(bytes_of(path("blockwise.jsonl")), bytes_of(path("whole.jsonl")));
  EXPECT_EQ(json_of(path("blockwise.json"))["results"], json_of(path("whole.json"))["results"]);
}

TEST_F(CliTaskTest, EncodingsAndLimits) {
  const RunOfCbq run = evaluate(
      {"--tasks", "piqa", "--task-data", path("data"), "--encoding", "separate", "--limit", "1"});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"1 of 2 items", "separate encoding"});
  expect_refused({"--tasks", "piqa", "--task-data", path("data"), "--encoding", "both"},
                 {"no encoding both", "joint joint_without_bos separate"});
  expect_refused({"--tasks", "piqa"}, {"piqa needs --task-data"});
  expect_refused({"--tasks", "squad", "--task-data", path("data")}, {"no task squad", "piqa"});
  expect_refused({"--tasks", "piqa,piqa", "--task-data", path("data")},
                 {"piqa is asked for twice"});
  expect_refused({"--tasks", "mutual", "--task-data", path("data")},
                 {"mutual", "mutual_dev.jsonl"});
  expect_refused({}, {"nothing to score", "--tasks"});
}

TEST_F(CliTaskTest, ATokenizerOfAnotherModelIsRefused) {
  ModelConfig smaller = tiny_config(1);
  save_model(*tiny_model(smaller), path("small"), Dtype::f32);
  fs::copy_file(path("model/tokenizer.json"), path("small/tokenizer.json"));
  folder_.write("a.txt", "some text that is long enough for one segment of it");
  for (const std::vector<std::string>& what :
       {std::vector<std::string>{"--tasks", "piqa", "--task-data", path("data")},
        std::vector<std::string>{"--text", path("a.txt")}}) {
    std::vector<std::string> all = {"evaluate", path("small"), "--device", "cpu"};
    all.insert(all.end(), what.begin(), what.end());
    const RunOfCbq run = cbq(all);
    EXPECT_EQ(run.code, 1);
    expect_in(run.err, {"has 460 tokens", "only 48", "another model"});
  }
}

TEST_F(CliTaskTest, DataFilesCarryTheirProtocol) {
  std::string documents, rows;
  for (int i = 0; i < 12; ++i) {
    std::string text = "document";
    for (int j = 0; j < 12 * i; ++j) text += " and " + std::to_string(j);
    documents += nlohmann::json({{"text", text}}).dump() + "\n";
    rows += text + "\n\n";
  }
  folder_.write("c4.json", documents);
  folder_.write("wiki.raw", rows);
  const auto data = [&](const char* protocol, const char* file, std::vector<std::string> more) {
    std::vector<std::string> all = {"data",        protocol, path(file),  "--tokenizer",
                                    path("model"), "-o",     path("o.h5")};
    all.insert(all.end(), more.begin(), more.end());
    return cbq(all);
  };
  RunOfCbq run = data("c4-samples", "c4.json", {"--segments", "5", "--segment-length", "32"});
  ASSERT_EQ(run.code, 0) << run.err;
  expect_in(run.out, {"160 tokens in 5 segment(s)", "c4-samples: 5 segments of 32", "seed 0"});
  EXPECT_EQ(load_tokens(path("o.h5")).length(), 32);
  ASSERT_EQ(data("c4-validation", "c4.json", {"--segment-length", "32"}).code, 0);
  EXPECT_EQ(load_tokens(path("o.h5")).count(), 256);
  ASSERT_EQ(data("c4-new", "c4.json", {"--segment-length", "32"}).code, 0);
  ASSERT_EQ(data("lambada", "c4.json", {}).code, 0);
  EXPECT_EQ(load_tokens(path("o.h5")).count(), 12);
  ASSERT_EQ(data("wikitext2-samples", "wiki.raw", {"--segment-length", "32"}).code, 0);
  EXPECT_EQ(load_tokens(path("o.h5")).count(), 128);
  ASSERT_EQ(data("wikitext2", "wiki.raw", {}).code, 0);
  const RunOfCbq scored = evaluate({"--tokens", path("o.h5")});
  ASSERT_EQ(scored.code, 0) << scored.err;
  expect_in(scored.out, {"wikitext2: rows joined as GPTQ joins them, consecutive segments of 64"});
  // Of the segments made, some: every third one from number 1 on.
  ASSERT_EQ(data("text", "wiki.raw", {"--segment-length", "16"}).code, 0);
  const TokenSet all = load_tokens(path("o.h5"));
  run = data("text", "wiki.raw",
             {"--segment-length", "16", "--skip", "1", "--every", "3", "--at-most", "2"});
  ASSERT_EQ(run.code, 0) << run.err;
  const TokenSet some = load_tokens(path("o.h5"));
  ASSERT_EQ(some.count(), 2);
  EXPECT_EQ(some.segments[0], all.segments[1]);
  EXPECT_EQ(some.segments[1], all.segments[4]);
  expect_in(some.protocol, {", 2 of them: number 1, then every 3th"});
  expect_in(data("text", "wiki.raw", {"--segment-length", "16", "--skip", "100000"}).err,
            {"--skip 100000", "there are only"});
  expect_in(data("text", "wiki.raw", {"--every", "0"}).err, {"--every"});
  // Any text at random places: random.seed(0), randint(0, ids - 32 - 1).
  ASSERT_EQ(data("text", "wiki.raw", {}).code, 0);
  const std::vector<int32_t> ids = load_tokens(path("o.h5")).segments[0];
  ASSERT_EQ(data("text-samples", "wiki.raw", {"--segment-length", "32", "--segments", "3"}).code,
            0);
  const TokenSet drawn = load_tokens(path("o.h5"));
  PythonRandom random(0);
  for (const auto& segment : drawn.segments) {
    const int64_t place = random.randint(0, static_cast<int64_t>(ids.size()) - 33);
    EXPECT_TRUE(std::equal(segment.begin(), segment.end(), ids.begin() + place));
  }
  // Documents with one newline between two.
  folder_.write("joined.txt", "a b\nc");
  folder_.write("two.json", "{\"text\": \"a b\"}\n{\"text\": \"c\"}\n");
  ASSERT_EQ(data("text", "joined.txt", {}).code, 0);
  const std::string hash = load_tokens(path("o.h5")).hash();
  ASSERT_EQ(data("c4-joined", "two.json", {}).code, 0);
  EXPECT_EQ(load_tokens(path("o.h5")).hash(), hash);
  run = data("c4", "c4.json", {});
  EXPECT_EQ(run.code, 1);
  expect_in(run.err, {"no protocol c4", "c4-samples", "wikitext2"});
  expect_in(data("c4-samples", "c4.json", {}).err, {"needs --segment-length"});
  expect_in(data("c4-samples", "wiki.raw", {"--segment-length", "8"}).err, {"wiki.raw, line"});
}

}  // namespace
}  // namespace cbq::test::test_cli_tasks
