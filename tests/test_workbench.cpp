// Cells of run_ablation: those computed block by block have the numbers of those in memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cbq/activation_cache.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/quantize_blockwise.h"
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
    Settings settings = method_settings("cbq_windows", 2, float_bits);
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
      EXPECT_EQ(result.texts[t].segment_nll, expected.texts[t].segment_nll) << t;
      EXPECT_EQ(result.texts[t].segment_kl, expected.texts[t].segment_kl) << t;
      EXPECT_EQ(result.texts[t].segment_agreed, expected.texts[t].segment_agreed) << t;
      EXPECT_EQ(result.texts[t].kl_p99, expected.texts[t].kl_p99) << t;
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

/// Log-probabilities of every position of a segment but the last: the model's own forward pass,
/// and a softmax over doubles.
std::vector<std::vector<double>> log_probabilities(Transformer& model,
                                                   const std::vector<int32_t>& segment) {
  const NoGrad none;
  const auto tokens = static_cast<int64_t>(segment.size()) - 1;
  const std::vector<int32_t> read(segment.begin(), segment.end() - 1);
  const Tensor ids = Tensor::from(read, {tokens}, Dtype::i32, Device::cpu());
  const auto logits = model.forward(ids, {1, tokens}).value().to_vector<double>();
  const size_t classes = logits.size() / read.size();
  std::vector<std::vector<double>> all;
  for (size_t t = 0; t < read.size(); ++t) {
    std::vector<double> row(logits.begin() + static_cast<std::ptrdiff_t>(t * classes),
                            logits.begin() + static_cast<std::ptrdiff_t>((t + 1) * classes));
    double sum = 0.0;
    for (const double x : row) sum += std::exp(x);
    for (double& x : row) x -= std::log(sum);
    all.push_back(std::move(row));
  }
  return all;
}

size_t best_of(const std::vector<double>& row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

/// The score by its definition, one segment after the other in both models.
TextScore naive_score(Transformer& original, Transformer& model,
                      const std::vector<std::vector<int32_t>>& segments) {
  TextScore score;
  std::vector<double> all;
  for (const auto& segment : segments) {
    const auto p = log_probabilities(original, segment), q = log_probabilities(model, segment);
    double nll = 0.0, divergence = 0.0;
    int64_t agreed = 0;
    for (size_t t = 0; t < p.size(); ++t) {
      double kl = 0.0;
      for (size_t j = 0; j < p[t].size(); ++j) kl += std::exp(p[t][j]) * (p[t][j] - q[t][j]);
      nll -= q[t][static_cast<size_t>(segment[t + 1])];
      divergence += kl;
      agreed += best_of(p[t]) == best_of(q[t]) ? 1 : 0;
      all.push_back(kl);
    }
    score.segment_nll.push_back(nll);
    score.segment_kl.push_back(divergence);
    score.segment_agreed.push_back(agreed);
    score.segment_tokens.push_back(static_cast<int64_t>(p.size()));
  }
  std::sort(all.begin(), all.end());
  score.kl_p99 = all[(all.size() * 99 + 99) / 100 - 1];
  for (const double kl : all) score.kl += kl / static_cast<double>(all.size());
  return score;
}

TEST_F(WorkbenchCells, DivergenceFromTheOriginalIsThatOfItsDefinition) {
  config_.texts.resize(1);
  for (const char* changes :
       {R"({"reconstruct": "none"})", R"({"reconstruct": "none", "wbits": 4})",
        R"({"rotation": "r1_r2", "wbits": 4})",
        // Its last stage learns the norm in front of the head.
        R"({"polish_epochs": 2, "window": 1, "overlap": 0})"}) {
    SCOPED_TRACE(changes);
    Workbench workbench(config("naive", false));
    const Cell cell = cell_of(workbench, changes);
    const TextScore score = workbench.run(cell, {}).texts[0];
    const auto original = load_model(folder_ / "model", Dtype::f32, Device::cpu());
    auto model = load_model(folder_ / "model", Dtype::f32, Device::cpu());
    apply_global_transforms(*model, cell.settings);
    const auto& calibration = config_.calibration.segments;
    const auto activations = cache_in_memory(*model, calibration);
    quantize_any(model, calibration, cell.settings, activations, {}, folder_ / "packed");
    const TextScore expected = naive_score(*original, *model, config_.texts[0].segments);
    EXPECT_GT(expected.kl, 1e-4);
    EXPECT_NEAR(score.kl, expected.kl, 1e-4 * expected.kl + 1e-6);
    EXPECT_NEAR(score.kl_p99, expected.kl_p99, 1e-4 * expected.kl_p99 + 1e-5);
    EXPECT_EQ(score.segment_tokens, expected.segment_tokens);
    EXPECT_EQ(score.segment_agreed, expected.segment_agreed);
    ASSERT_EQ(score.segment_kl.size(), 7u);
    int64_t agreed = 0;
    for (size_t s = 0; s < 7; ++s) {
      EXPECT_NEAR(score.segment_kl[s], expected.segment_kl[s],
                  1e-4 * expected.segment_kl[s] + 1e-5);
      EXPECT_NEAR(score.segment_nll[s], expected.segment_nll[s], 1e-4 * expected.segment_nll[s]);
      agreed += expected.segment_agreed[s];
    }
    EXPECT_NEAR(score.top1, static_cast<double>(agreed) / static_cast<double>(score.tokens), 1e-12);
  }
}

TEST_F(WorkbenchCells, TheOriginalDoesNotDivergeFromItself) {
  Workbench workbench(config("whole", false));
  const CellResult result = workbench.run(cell_of(workbench, R"({"wbits": 16})"), {});
  for (const TextScore& score : result.texts) {
    EXPECT_EQ(score.kl, 0.0);
    EXPECT_EQ(score.kl_p99, 0.0);
    EXPECT_NEAR(score.top1, 1.0, 1e-12);
    EXPECT_EQ(score.segment_agreed, score.segment_tokens);
  }
  EXPECT_GT(result.finished, 1700000000);
}

TEST_F(WorkbenchCells, StatesOfTheOriginalAreComputedOnce) {
  const auto files = [&] {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(folder_ / "whole/cache")) {
      paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  };
  const auto run = [&](std::vector<std::string>& lines) {
    WorkbenchConfig telling = config("whole", false);
    telling.say = [&](const std::string& line) { lines.push_back(line); };
    Workbench workbench(telling);
    return to_json(workbench.run(cell_of(workbench, R"({"reconstruct": "none"})"), {}))["texts"];
  };
  std::vector<std::string> first, second, third;
  const nlohmann::json expected = run(first);
  ASSERT_EQ(files().size(), 2u) << "one for each text";
  const auto written = fs::last_write_time(files()[0]);
  EXPECT_EQ(run(second), expected);
  EXPECT_EQ(first.size(), 2u);
  EXPECT_EQ(second, std::vector<std::string>{});
  EXPECT_EQ(fs::last_write_time(files()[0]), written) << "read, not written again";
  // One flipped bit in the middle.
  std::fstream file(files()[0], std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(fs::file_size(files()[0]) / 2));
  const auto byte = static_cast<char>(file.get() ^ 4);
  file.seekp(static_cast<std::streamoff>(fs::file_size(files()[0]) / 2));
  file.put(byte);
  file.close();
  EXPECT_EQ(run(third), expected);
  ASSERT_EQ(third.size(), 2u);
  expect_in(third[0], {"computed again", files()[0].filename().c_str()});
  expect_in(third[1], {"writing"});
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
