// run_ablation over several models and with zero-shot tasks, as a user runs it.
#include <nlohmann/json.hpp>

#include "tests/test_cli_support.h"

namespace cbq::test::test_run_ablation_models {
namespace {

namespace fs = std::filesystem;

/// Two random models with a byte-level tokenizer of 460 tokens, texts and a data set.
class AblationModelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"small", "large"}) {
      ModelConfig config = tiny_config(name == std::string("small") ? 2 : 3);
      config.vocab_size = 460;
      config.max_position_embeddings = 64;
      save_model(*tiny_model(config), path(name), Dtype::f32);
      fs::copy_file(fs::path(CBQ_SOURCE_DIR) / "tests/fixtures/tokenizers/bloom.json",
                    folder_ / name / "tokenizer.json");
    }
    std::string text;
    for (int i = 0; i < 300; ++i) text += concat("The number ", i * i, " follows ", i, ". ");
    folder_.write("text.txt", text);
    folder_.write(
        "piqa.jsonl",
        "{\"goal\": \"Cool soup\", \"sol1\": \"Blow.\", \"sol2\": \"Heat it.\", \"label\": 0}\n"
        "{\"goal\": \"Cut wood\", \"sol1\": \"Sing.\", \"sol2\": \"Saw it.\", \"label\": 1}\n");
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  RunOfCbq run(const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"--model",
                                    path("small"),
                                    "--calibration",
                                    path("text.txt"),
                                    "--texts",
                                    "a=" + path("text.txt"),
                                    "b=" + path("text.txt"),
                                    "--segments",
                                    "2",
                                    "--epochs",
                                    "1",
                                    "--device",
                                    "cpu",
                                    "--output",
                                    path("out"),
                                    "--segment-length",
                                    "16",
                                    "--eval-tokens",
                                    "128"};
    all.insert(all.end(), more.begin(), more.end());
    return run_program("run_ablation", all);
  }
  nlohmann::json report() const { return json_of(path("out/ablation.json")); }
  TemporaryFolder folder_;
};

/// Rows of a group that have values.
int computed_rows(const nlohmann::json& table, const std::string& group) {
  int rows = 0;
  for (const nlohmann::json& row : table.at("rows")) {
    rows += row.value("group", "") == group && row.contains("ours");
  }
  return rows;
}

TEST_F(AblationModelsTest, EachGroupRunsOnItsModel) {
  const RunOfCbq both = run({"--table", "14", "--models", "opt=" + path("large")});
  ASSERT_EQ(both.code, 0) << both.err;
  expect_in(both.out, {"large, the model of the family", "small, the default model", "(2 blocks",
                       "(3 blocks"});
  const nlohmann::json table = report().at(0);
  EXPECT_GE(computed_rows(table, "LLAMA2-7B"), 3);
  EXPECT_GE(computed_rows(table, "OPT-6.7B"), 3);
  // The same rows alone are the same cells, and the other group is not at hand.
  const RunOfCbq alone = run({"--table", "14", "--models", "LLAMA2-7B=" + path("large")});
  ASSERT_EQ(alone.code, 0) << alone.err;
  expect_in(alone.out, {"not at hand: OPT-6.7B"});
  EXPECT_EQ(alone.err.find(" 0 of them finished earlier"), std::string::npos) << alone.err;
  EXPECT_EQ(computed_rows(report().at(0), "OPT-6.7B"), 0);
  nlohmann::json there;
  for (const nlohmann::json& row : table.at("rows")) {
    if (row.at("label") == "OPT-6.7B W6A6 CBQ") there = row.at("ours");
  }
  ASSERT_FALSE(there.is_null());
  bool found = false;
  const nlohmann::json other = report().at(0);
  for (const nlohmann::json& row : other.at("rows")) {
    if (row.at("label") != "LLAMA2-7B W6A6 CBQ") continue;
    found = true;
    EXPECT_EQ(row.at("ours"), there);
  }
  EXPECT_TRUE(found);
}

TEST_F(AblationModelsTest, AccuraciesComeFromTheTasks) {
  const std::vector<std::string> options = {"--table", "14",      "--limit",
                                            "2",       "--tasks", "piqa=" + path("piqa.jsonl")};
  const RunOfCbq first = run(options);
  ASSERT_EQ(first.code, 0) << first.err;
  expect_in(first.out, {"no data", "task piqa: ", "2 of 2 items, separate encoding"});
  const std::string normalized = "acc_norm,none";
  const RunOfCbq evaluated =
      cbq({"evaluate", path("small"), "--device", "cpu", "--tasks", "piqa=" + path("piqa.jsonl"),
           "--encoding", "separate", "--json", path("e.json")});
  ASSERT_EQ(evaluated.code, 0) << evaluated.err;
  const double expected =
      100.0 * json_of(path("e.json")).at("results").at("piqa").at(normalized).get<double>();
  bool found = false;
  const nlohmann::json table = report().at(0);
  for (const nlohmann::json& row : table.at("rows")) {
    if (row.at("label") != "LLAMA2-7B original") continue;
    found = true;
    EXPECT_EQ(row.at("ours").at("per-channel").at("piqa_acc").at("mean"), expected);
  }
  EXPECT_TRUE(found);
  const RunOfCbq again = run(options);
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, first.out);
  EXPECT_EQ(again.err.find(" 0 of them finished earlier"), std::string::npos) << again.err;
  // Finished cells stay when a later command has a task file that cannot be read.
  folder_.write("broken.jsonl", "{\"goal\": \"Cool soup\", \"sol1\": \"Blow.\", \"label\": 0}\n");
  const RunOfCbq broken = run({"--table", "14", "--tasks", "piqa=" + path("broken.jsonl")});
  EXPECT_EQ(broken.code, 1);
  expect_in(broken.err, {"broken.jsonl", "line 1"});
  const RunOfCbq third = run(options);
  EXPECT_EQ(third.out, first.out);
}

TEST_F(AblationModelsTest, ADryRunWritesNothing) {
  const RunOfCbq dry = run({"--table", "all", "--dry-run"});
  ASSERT_EQ(dry.code, 0) << dry.err;
  expect_in(dry.out, {"table 1: ", "table v1.8: ", "of parameters in memory", "take about"});
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(AblationModelsTest, TheListIsByVersion) {
  const RunOfCbq list = run({"--list"});
  ASSERT_EQ(list.code, 0) << list.err;
  const size_t iclr = list.out.find("ICLR 2025\n  1  "), v4 = list.out.find("arXiv v4\n  v4.3"),
               v1 = list.out.find("arXiv v1\n  v1.1");
  EXPECT_LT(iclr, v4) << list.out;
  EXPECT_LT(v4, v1) << list.out;
  EXPECT_NE(v1, std::string::npos) << list.out;
}

TEST_F(AblationModelsTest, RefusesWhatItDoesNotKnow) {
  const std::pair<std::vector<std::string>, std::vector<const char*>> cases[] = {
      {{"--models", "gpt2=" + path("large")}, {"gpt2", "LLAMA2-7B", "bloom, llama, opt"}},
      {{"--models", "opt"}, {"NAME=FOLDER"}},
      {{"--table", "14", "--models", "opt=" + path("none")}, {"none/config.json", "--models"}},
      // A name that the table does not have is no reason to accept a folder that is not there.
      {{"--table", "2", "--models", "LLAMA2-7B=" + path("none")}, {"none/config.json", "--models"}},
      {{"--tasks", "piqa=" + path("none.jsonl")}, {"piqa", "none.jsonl"}},
      {{"--tasks", "piqa"}, {"piqa", "--task-data"}},
      {{"--tasks", "quiz=" + path("piqa.jsonl")}, {"quiz", "piqa"}},
      {{"--tasks", path("none.jsonl")}, {"none.jsonl"}},
      {{"--encoding", "wild"}, {"wild", "separate"}},
  };
  for (const auto& [options, parts] : cases) {
    const RunOfCbq refused = run(options);
    EXPECT_EQ(refused.code, 1) << options[1] << "\n" << refused.err;
    for (const char* part : parts) expect_in(refused.err, {part});
  }
  EXPECT_FALSE(fs::exists(path("out/ablation.json")));
}

}  // namespace
}  // namespace cbq::test::test_run_ablation_models
