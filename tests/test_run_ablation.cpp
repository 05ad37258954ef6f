// run_ablation as a user runs it: what it writes, what it does not compute twice, what it refuses.
#include <nlohmann/json.hpp>

#include "tests/test_cli_support.h"

namespace cbq::test::test_run_ablation {
namespace {

class RunAblationTest : public CliTest {
 protected:
  /// Table 12 on the tiny model, a few seconds at most.
  RunOfCbq run(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"--model",
                                    model(),
                                    "--calibration",
                                    calibration(),
                                    "--texts",
                                    "a=" + test_tokens(),
                                    "b=" + test_tokens(),
                                    "--table",
                                    "12",
                                    "--segments",
                                    "6",
                                    "--epochs",
                                    "1",
                                    "--device",
                                    "cpu",
                                    "--output",
                                    path("out"),
                                    "--segment-length",
                                    "12"};
    all.insert(all.end(), more.begin(), more.end());
    return run_program("run_ablation", all);
  }
};

TEST_F(RunAblationTest, WritesReportsAndKeepsFinishedCells) {
  const RunOfCbq first = run();
  ASSERT_EQ(first.code, 0) << first.err;
  expect_in(first.out, {"Rank", "written: ", "ablation.md", "ids.json:calibration"});
  expect_in(first.err, {"0 of them finished earlier"});
  const nlohmann::json report = json_of(path("out/ablation.json"));
  const std::string markdown = bytes_of(path("out/ablation.md"));

  const RunOfCbq second = run();
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.err.find(" 0 of them finished earlier"), std::string::npos) << second.err;
  EXPECT_EQ(json_of(path("out/ablation.json")), report);
  EXPECT_EQ(bytes_of(path("out/ablation.md")), markdown);

  const RunOfCbq fresh = run({"--fresh"});
  ASSERT_EQ(fresh.code, 0) << fresh.err;
  expect_in(fresh.err, {"0 of them finished earlier"});
}

/// The perplexities of all rows of all tables.
nlohmann::json perplexities(const nlohmann::json& tables) {
  nlohmann::json all;
  for (const nlohmann::json& table : tables) {
    for (const nlohmann::json& row : table.at("rows")) {
      if (!row.contains("ours")) continue;
      for (const auto& [granularity, metrics] : row.at("ours").items()) {
        for (const auto& [metric, value] : metrics.items()) {
          if (metric.ends_with("_ppl")) all[row.at("name")][granularity][metric] = value;
        }
      }
    }
  }
  return all;
}

TEST_F(RunAblationTest, BlockByBlockGivesTheSameTables) {
  const RunOfCbq whole = run({"--load", "whole", "--output", path("whole")});
  ASSERT_EQ(whole.code, 0) << whole.err;
  const RunOfCbq blockwise = run({"--load", "blockwise", "--output", path("blockwise")});
  ASSERT_EQ(blockwise.code, 0) << blockwise.err;
  EXPECT_EQ(whole.err.find("blocks are loaded"), std::string::npos) << whole.err;
  const std::string said = "blocks are loaded when they are needed";
  const size_t at = blockwise.err.find(said);
  ASSERT_NE(at, std::string::npos) << blockwise.err;
  EXPECT_EQ(blockwise.err.find(said, at + 1), std::string::npos) << "once, not for every cell";
  const nlohmann::json expected = perplexities(json_of(path("whole/ablation.json")));
  EXPECT_GE(expected.size(), 3u);
  EXPECT_EQ(perplexities(json_of(path("blockwise/ablation.json"))), expected);
  // The cells are the same ones: the other way finds them finished.
  const RunOfCbq again = run({"--load", "whole", "--output", path("blockwise")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.err.find(" 0 of them finished earlier"), std::string::npos) << again.err;
  EXPECT_TRUE(!std::filesystem::exists(path("blockwise/unfinished")) ||
              std::filesystem::is_empty(path("blockwise/unfinished")));
}

TEST_F(RunAblationTest, RefusesWhatItDoesNotKnow) {
  const std::pair<std::vector<std::string>, std::vector<const char*>> cases[] = {
      {{"--table", "99"}, {"99", "3b"}},
      {{"--method", "wild"}, {"wild", "cbq", "cbq_iclr"}},
      {{"--method", path("no.json")}, {"no.json"}},
      {{"--profile", "tuned"}, {"--method cbq"}},
      {{"--settings", R"({"profile": "paper_v4"})"}, {"'method'", "cbq_v4"}},
      {{"--bits", "X2"}, {"X2"}},
      {{"--axis", "batch", "--table", "3c"}, {"--axis", "--table"}},
      {{"--segments", "7"}, {"6 segments", "7"}},
      {{"--segment-length", "99"}, {"99", "16"}},
      {{"--calibration", path("no.h5")}, {"no.h5", "--calibration"}},
      {{"--calibration", path("ids.json") + ":other"}, {"other", "calibration"}},
      {{"--model", path("none")}, {"none/config.json"}},
      {{"--device", "tpu"}, {"tpu"}},
      {{"--load", "halfway"}, {"halfway", "auto, whole, blockwise"}},
  };
  for (const auto& [options, parts] : cases) {
    const RunOfCbq refused = run(options);
    EXPECT_EQ(refused.code, 1) << options[1] << "\n" << refused.err;
    for (const char* part : parts) expect_in(refused.err, {part});
  }
  EXPECT_FALSE(std::filesystem::exists(path("out/ablation.json")));
}

}  // namespace
}  // namespace cbq::test::test_run_ablation
