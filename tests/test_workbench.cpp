// Cells of run_ablation: those computed block by block have the numbers of those in memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cbq/methods.h"
#include "experiments/workbench.h"
#include "nn/perplexity.h"
#include "tests/test_cli_support.h"

namespace cbq::test::test_workbench {
namespace {

namespace fs = std::filesystem;

class WorkbenchCells : public ::testing::Test {
 protected:
  void SetUp() override {
    save_model(*tiny_model(tiny_config(4)), folder_ / "model", Dtype::f32);
    config_.calibration.segments = tiny_segments(5, 12);
    config_.texts.resize(2);
    config_.texts[0].segments = tiny_segments(7, 14, 8);
    config_.texts[1].segments = tiny_segments(500, 16, 9);  // four batches
    config_.version = "v1";
  }

  /// Cells of their own folder: nothing is shared between the two ways.
  WorkbenchConfig config(const std::string& name, bool on_demand) const {
    WorkbenchConfig config = config_;
    config.folder = folder_ / name;
    config.load = [this, on_demand] {
      return on_demand ? open_model(folder_ / "model", Dtype::f32, Device::cpu())
                       : load_model(folder_ / "model", Dtype::f32, Device::cpu());
    };
    return config;
  }
  static Cell cell_of(Workbench& workbench, const char* changes) {
    Settings settings = method_settings("cbq", 2, float_bits);
    settings.epochs = 1;
    settings.batch = 2;
    apply_json(settings, nlohmann::json::parse(changes));
    return make_cell(settings, 4, {}, workbench.inputs());
  }

  TemporaryFolder folder_;
  WorkbenchConfig config_;
};

TEST_F(WorkbenchCells, BlockByBlockHaveTheNumbersOfTheModelInMemory) {
  for (const char* changes :
       {R"({"wbits": 16})", R"({})", R"({"reconstruct": "none"})", R"({"solver": "gptq"})",
        R"({"abits": 4, "preprocess": "cfp_weight_activation", "homologous": true})",
        R"({"rotation": "r1_r2", "abits": 8})", R"({"polish_epochs": 1, "window": 1,
            "overlap": 0})"}) {
    SCOPED_TRACE(changes);
    Workbench whole(config("whole", false)), blockwise(config("blockwise", true));
    const Cell cell = cell_of(whole, changes), same = cell_of(blockwise, changes);
    EXPECT_EQ(cell.key, same.key) << "either way finds what the other has finished";
    const CellResult expected = whole.run(cell, {}), result = blockwise.run(same, {});
    ASSERT_EQ(result.texts.size(), 2u);
    for (size_t t = 0; t < 2; ++t) {
      EXPECT_EQ(result.texts[t].mean_nll, expected.texts[t].mean_nll) << t;
      EXPECT_EQ(result.texts[t].tokens, expected.texts[t].tokens) << t;
      EXPECT_TRUE(std::isfinite(result.texts[t].mean_nll));
    }
    EXPECT_EQ(result.notes, expected.notes);
    EXPECT_EQ(result.windows, expected.windows);
    EXPECT_FALSE(fs::exists(folder_ / "blockwise/unfinished" / cell.key));
  }
}

TEST_F(WorkbenchCells, AnInterruptedCellGoesOnBlockByBlock) {
  Workbench whole(config("whole", false));
  const Cell cell = cell_of(whole, R"({})");
  const CellResult expected = whole.run(cell, {});
  WorkbenchConfig stopping = config("blockwise", true);
  bool stop = false;
  stopping.interrupted = [&] { return stop; };
  std::vector<std::string> lines;
  stopping.say = [&](const std::string& line) { lines.push_back(line); };
  Workbench blockwise(stopping);
  const Cell same = cell_of(blockwise, R"({})");
  const auto stop_late = [&](double fraction) { stop = fraction > 0.6; };
  EXPECT_THROW(blockwise.run(same, stop_late), Interrupted);
  EXPECT_TRUE(fs::exists(folder_ / "blockwise/unfinished" / cell.key));
  stop = false;
  const CellResult result = blockwise.run(same, {});
  EXPECT_TRUE(std::any_of(lines.begin(), lines.end(), [](const std::string& line) {
    return line.starts_with("resumed after");
  }));
  for (size_t t = 0; t < 2; ++t) EXPECT_EQ(result.texts[t].mean_nll, expected.texts[t].mean_nll);
  EXPECT_FALSE(fs::exists(folder_ / "blockwise/unfinished" / cell.key));
}

/// What cells that earlier programs finished were summed like: batch by batch.
TEST_F(WorkbenchCells, ScoresAreThoseOfBatchesOfTheirOwn) {
  int told_apart = 0;
  // Predictions so sure that losses of very different sizes are summed: rounded at every step. Some
  // of these sums may all the same be equal, by chance and by processor.
  for (const double sureness : {4.0, 3.0, 5.0, 7.0}) {
    SCOPED_TRACE(sureness);
    WorkbenchConfig sure = config(concat("whole", sureness), false);
    sure.load = [this, sureness] {
      auto model = load_model(folder_ / "model", Dtype::f32, Device::cpu());
      model->visit_head("", [&](const std::string&, Var& p) {
        p.set_value(kernels::scale(p.value(), sureness));
      });
      return model;
    };
    Workbench whole(sure);
    const CellResult result = whole.run(cell_of(whole, R"({"wbits": 16})"), {});
    const auto model = sure.load();
    const auto& segments = config_.texts[1].segments;
    const int64_t batch = 2048 / 16;
    double nll = 0.0;
    for (size_t begin = 0; begin < segments.size(); begin += batch) {
      const size_t end = std::min<size_t>(segments.size(), begin + batch);
      const std::vector<std::vector<int32_t>> part(
          segments.begin() + static_cast<std::ptrdiff_t>(begin),
          segments.begin() + static_cast<std::ptrdiff_t>(end));
      nll += perplexity(*model, part, batch).nll_sum;
    }
    EXPECT_EQ(result.texts[1].tokens, 500 * 15);
    EXPECT_EQ(result.texts[1].mean_nll, nll / (500 * 15));
    told_apart += perplexity(*model, segments, batch).nll_sum != nll;
  }
  EXPECT_GT(told_apart, 0) << "this test tells nothing";
}

}  // namespace
}  // namespace cbq::test::test_workbench
