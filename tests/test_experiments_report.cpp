#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "cbq/pipeline.h"
#include "experiments/ablation.h"
#include "experiments/text_table.h"
#include "experiments/workbench.h"
#include "nn/formats/json.h"
#include "tests/fake_ablation.h"
#include "tests/test_data.h"

namespace cbq::test_experiments_report {
namespace {

using namespace fake_ablation;

ModelConfig model_of(int64_t blocks) {
  ModelConfig config;
  config.num_layers = blocks;
  return config;
}

const char* const golden = R"(Table 3z: Windows (W2A16, per-channel); paper: LLaMA-7B, W4A4

                      | gcide as C4  | wordnet as WikiText-2 | peak memory      | time
row                   |  ours  paper |  ours           paper |    ours    paper |   ours
----------------------+--------------+-----------------------+------------------+-------
original model        | 20.00      - | 10.00               - | 10.5 MB        - |  0.5 s
nearest rounding      |  1235      - | 5e+07               - | 10.5 MB        - |  0.5 s
----------------------+--------------+-----------------------+------------------+-------
1 block               | 36.00  14.57 | 30.00           11.98 |  5.2 MB  17.2 GB | 10.0 s
2 blocks, overlap 1   | 32.00  13.29 | 30.00           10.63 | 10.5 MB  21.0 GB | 20.0 s
= 4 blocks, overlap 3 | 32.00  12.32 | 30.00            9.45 | 10.5 MB  39.0 GB | 20.0 s
OMSE                  |     -  25.34 |     -           19.53 |       -        - |      -

                      | gcide against the original | wordnet against the original
row                   |    KL  KL 99 %       top-1 |    KL  KL 99 %         top-1
----------------------+----------------------------+-----------------------------
original model        |     0        0     100.0 % |     0        0       100.0 %
nearest rounding      | 0.200    0.800      50.0 % | 0.400     1.60        50.0 %
----------------------+----------------------------+-----------------------------
1 block               | 0.100    0.400      50.0 % | 0.200    0.800        50.0 %
2 blocks, overlap 1   | 0.200    0.800      50.0 % | 0.400     1.60        50.0 %
= 4 blocks, overlap 3 | 0.200    0.800      50.0 % | 0.400     1.60        50.0 %
OMSE                  |     -        -           - |     -        -             -

                  | gcide as C4                       | wordnet as WikiText-2
trend             |  paper      ours, nats    verdict |  paper   ours, nats       verdict
------------------+-----------------------------------+----------------------------------
wider is better   |                                   |
  1/0 -> 2/1      |  lower  -0.1178±0.0091      agree |  lower  0.000±0.018  not resolved
  2/1 -> 4/3      |  lower           equal  same cell |  lower        equal     same cell
OMSE against none | higher               -          - | higher            -             -

             | peak memory
trend        |  paper    ours  verdict
-------------+------------------------
memory grows | higher  higher    agree

  = 4 blocks, overlap 3: as 2 blocks, overlap 1; one window holds all 2 blocks
  missing: OMSE: unknown preprocessor 'omse'
  the paper's values are LLaMA-7B (W4A4), ours W2A16: compare signs, not sizes
  signs: 2 agree, 0 disagree, 1 not resolved, 2 same cell, 2 open
  differences: mean ± standard error per token, judged by 95 % intervals over 4 segments of gcide, 4
    segments of wordnet; one seed, so they do not hold what another seed would change (--seeds 3)
  budget: 8 segments of 16 tokens
  4 cells, 0:31 of reconstruction

Summary
  pairwise orderings of the paper's perplexities (1 table): 2 hold, 0 refuted, 2 not resolved, 2 one
    cell here, 6 without a value here
  steps of trends, under all their metrics: 2 hold, 0 refuted, 1 not resolved, 2 one cell here, 2
    without a value here
  if no two rows differed, chance alone would refute about 1 of 40 pairs and confirm as many

)";
TEST(Report, GoldenLines) {
  const TemporaryFolder folder;
  EXPECT_EQ(run(fakes(folder, 2)), golden);
}

TEST(Report, LinesFitAHundredColumns) {
  const TemporaryFolder folder;
  for (const int64_t seeds : {1, 3}) {
    std::istringstream lines(run(fakes(folder, 12, seeds, {"per-channel", "g64", "g128"})));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), 100u) << line;
  }
}

TEST(Report, GranularitiesStandSideBySide) {
  const TemporaryFolder folder;
  const std::string text = run(fakes(folder, 12, 1, {"per-channel", "g64"}));
  EXPECT_NE(text.find("| per-channel    g64  paper |"), std::string::npos) << text;
  EXPECT_NE(text.find("1 block             |       36.00  36.00  14.57 |"), std::string::npos)
      << text;
  EXPECT_NE(text.find("gcide as C4, g64"), std::string::npos) << "trends of both\n" << text;
  EXPECT_NE(text.find("gcide against the original, g64"), std::string::npos) << text;
}

TEST(Report, SeedsGiveMeanAndSpread) {
  const TemporaryFolder folder;
  const std::string text = run(fakes(folder, 12, 3));
  EXPECT_NE(text.find("36.36±0.36"), std::string::npos) << text;  // 36 e^0.01, sd 0.01 nats
  const std::string markdown = read_text_file(folder / "ablation.md");
  EXPECT_NE(markdown.find("4 segments of gcide, 4 segments of wordnet and 3 seeds"),
            std::string::npos)
      << markdown;
}

TEST(Report, JsonAndMarkdownSayTheSame) {
  const TemporaryFolder folder;
  run(fakes(folder, 12));
  const nlohmann::json json = read_json_file(folder / "ablation.json");
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0].at("table"), "3z");
  EXPECT_EQ(json[0].at("rows").size(), 6u);
  const nlohmann::json& row = json[0].at("rows")[2];
  EXPECT_EQ(row.at("name"), "1/0");
  EXPECT_NEAR(row.at("ours").at("per-channel").at("c4_ppl").at("mean").get<double>(), 36.0, 1e-9);
  EXPECT_EQ(row.at("paper").at("c4_ppl"), 14.57);
  EXPECT_EQ(json[0].at("rows")[5].at("missing"), "unknown preprocessor 'omse'");
  EXPECT_EQ(json[0].at("trends")[0].at("verdict"), "agree");
  const std::string markdown = read_text_file(folder / "ablation.md");
  EXPECT_NE(markdown.find("| 1 block | 36.00 | 14.57 | 30.00 | 11.98 |"), std::string::npos)
      << markdown;
  EXPECT_NE(markdown.find("- budget: 8 segments"), std::string::npos) << markdown;
}

TEST(Ablation, FinishedCellsAreNotComputedTwice) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12);
  int computed = 0;
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>&) {
    ++computed;
    return fake_result(cell);
  };
  const std::string first = run(ablation);
  EXPECT_EQ(computed, 5);
  EXPECT_EQ(run(ablation), first);
  EXPECT_EQ(computed, 5);
  ablation.version = "v2";
  EXPECT_NE(run(ablation).find("computed by version v1"), std::string::npos);
  EXPECT_EQ(computed, 5);
}

TEST(Ablation, GoesOnAfterAnInterruption) {
  const TemporaryFolder whole_folder, folder;
  const std::string whole = run(fakes(whole_folder, 12));
  Ablation ablation = fakes(folder, 12);
  int computed = 0;
  bool stop = false;
  ablation.interrupted = [&] { return stop; };
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>&) {
    stop = ++computed == 3;
    return fake_result(cell);
  };
  expect_error<Interrupted>(
      [&] {
        computed = 0;
        std::filesystem::remove_all(folder / "cells");
        stop = false;
        run(ablation);
      },
      {"3 of 5 cells", "cells", "goes on"});
  EXPECT_FALSE(std::filesystem::exists(folder / "ablation.md"));
  computed = 10;
  stop = false;
  EXPECT_EQ(run(ablation), whole);
  EXPECT_EQ(computed, 12);
}

TEST(Ablation, AFailingCellIsNamed) {
  const TemporaryFolder folder;
  Ablation ablation = fakes(folder, 12);
  ablation.runner = [](const Cell&, const std::function<void(double)>&) -> CellResult {
    throw std::invalid_argument("group size 64 does not divide 100");
  };
  expect_error<std::invalid_argument>([&] { run(ablation); },
                                      {"table 3z: original model", "group size 64"});
}

// A random model of two blocks through everything: activations on disk, quantization, scoring.
TEST(Ablation, EndToEndOnATinyModel) {
  const TemporaryFolder folder;
  ModelConfig config;
  config.vocab_size = 50;
  config.hidden_size = 16;
  config.intermediate_size = 32;
  config.num_layers = 2;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 8;
  config.max_position_embeddings = 16;
  WorkbenchConfig bench;
  bench.load = [&] {
    auto model = make_model(config, Dtype::f32, Device::cpu());
    initialize(*model, 1);
    return model;
  };
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 200; ++i) ids.push_back(1 + (i * i + 3 * i) % 49);
  bench.calibration = random_segments(ids, 4, 8, 0);
  bench.texts = {consecutive_segments(ids, 16), consecutive_segments(ids, 10)};
  bench.folder = folder.path();
  bench.version = "v1";
  Workbench workbench(bench);
  Ablation ablation = fakes(folder, 2);
  ablation.inputs = workbench.inputs();
  PlanOptions options;
  options.epochs = 1;
  options.work = {32, 100};
  TableSpec table = window_table();
  table.rows.back().settings["preprocess"] = "magic";
  const PlanModel model = {2,
                           [](const Settings& s) { return Workbench::obstacle(s, model_of(2)); }};
  ablation.plan = make_plan({table}, model, options, ablation.inputs);
  ablation.runner = [&](const Cell& cell, const std::function<void(double)>& show) {
    return workbench.run(cell, show);
  };
  const std::string text = run(ablation);
  EXPECT_NE(text.find("= 4 blocks, overlap 3: as 2 blocks, overlap 1; one window holds all 2 "
                      "blocks"),
            std::string::npos)
      << text;
  EXPECT_EQ(run(ablation), text);
  EXPECT_FALSE(std::filesystem::is_empty(folder / "cache"));
  const nlohmann::json json = read_json_file(folder / "ablation.json");
  for (const nlohmann::json& row : json[0].at("rows")) {
    if (row.contains("missing")) continue;
    const nlohmann::json& value = row.at("ours").at("per-channel").at("c4_ppl");
    EXPECT_GT(value.at("mean").get<double>(), 1.0) << row.at("name");
    EXPECT_EQ(value.at("seeds"), 1);
  }
  EXPECT_GT(json[0].at("rows")[3].at("ours").at("per-channel").at("gpu_memory_gb").at("mean"), 0.0);
}

}  // namespace
}  // namespace cbq::test_experiments_report
