// Experts: rows that go different ways, the router, and what quantization does with experts that
// few tokens reach or none.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "autograd/functions.h"
#include "autograd/gradcheck.h"
#include "autograd/routed_rows.h"
#include "cbq/global_transforms.h"
#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "kernels/ops.h"
#include "nn/experts.h"
#include "quant/transforms/local/statistics.h"
#include "tests/fixtures.h"
#include "tests/test_data.h"

namespace cbq::test::test_experts {
namespace {

using Rows = std::vector<std::vector<double>>;

Tensor random(const Shape& shape, uint64_t stream, double deviation = 1.0) {
  const Tensor t(shape, Dtype::f64);
  kernels::fill_normal(t, 0.0, deviation, 17, stream);
  return t;
}

Tensor ids(const std::vector<int32_t>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())}, Dtype::i32, Device::cpu());
}

TEST(RoutedRows, PartsAreRowsAndAddUp) {
  const Var x(Tensor::from<double>({1, 2, 3, 4, 5, 6}, {3, 2}));
  const std::vector<Tensor> ways = {ids({2, 0}), ids({2}), ids({})};
  const std::vector<Var> parts = ag::split_rows(x, ways);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].value().to_vector<double>(), (std::vector<double>{5, 6, 1, 2}));
  EXPECT_EQ(parts[1].value().to_vector<double>(), (std::vector<double>{5, 6}));
  EXPECT_EQ(parts[2].shape(), (Shape{0, 2}));
  const Var y = ag::merge_rows(parts, ways, 3);
  EXPECT_EQ(y.value().to_vector<double>(), (std::vector<double>{1, 2, 0, 0, 10, 12}));
}

TEST(RoutedRows, GradientsMatchCentralDifferences) {
  const std::vector<Tensor> ways = {ids({3, 0, 1}), ids({3, 3}), ids({0})};
  const auto result = gradcheck(
      [&](const std::vector<Var>& in) {
        std::vector<Var> parts = ag::split_rows(in[0], ways);
        parts[1] = ag::mul(parts[1], in[1]);
        parts.pop_back();  // nothing flows back from the last one
        return ag::merge_rows(parts, {ways[0], ways[1]}, 5);
      },
      {random({4, 3}, 1), random({2, 3}, 2)});
  EXPECT_TRUE(result.passed) << result.message;
}

TEST(RoutedRows, WrongArgumentsAreNamed) {
  const Var x(random({3, 2}, 1));
  expect_error<std::invalid_argument>([&] { ag::split_rows(x, {ids({0, 3})}); }, {"3"});
  expect_error<std::invalid_argument>([&] { ag::merge_rows({}, {}, 3); }, {"merge_rows"});
  expect_error<std::invalid_argument>(
      [&] {
        ag::merge_rows({x}, {ids({0, 1})}, 3);
      },
      {"merge_rows", "part 0"});
}

/// Experts with random parameters, in f64.
struct Case {
  explicit Case(ExpertsConfig c) : config(c), experts(c, Dtype::f64, Device::cpu()) {
    uint64_t stream = 100;
    experts.visit("", [&](const std::string& path, Var& p) {
      p.set_value(random(p.shape(), stream++, path == "gate.weight" ? 1.0 : 0.4));
      values[path] = p.value().to_vector<double>();
    });
  }
  std::vector<double> row_times(const std::string& path, const std::vector<double>& x) const {
    const std::vector<double>& w = values.at(path);
    std::vector<double> y(w.size() / x.size(), 0.0);
    for (size_t i = 0; i < y.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    }
    return y;
  }

  /// Sorts the probabilities, where the module looks for one after the other.
  Rows expected(const Rows& x, std::vector<int64_t>& counts) const {
    Rows all;
    for (const std::vector<double>& row : x) {
      std::vector<double> p = row_times("gate.weight", row);
      for (double& value : p) value = std::exp(value);
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& value : p) value /= sum;
      std::vector<size_t> order(p.size());
      std::iota(order.begin(), order.end(), 0u);
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
      order.resize(static_cast<size_t>(config.per_token));
      double chosen = 0.0;
      for (const size_t e : order) chosen += p[e];
      std::vector<double> y(row.size(), 0.0);
      for (const size_t e : order) {
        ++counts[e];
        const std::string expert = concat("experts.", e, ".");
        std::vector<double> middle = row_times(expert + "gate_proj.weight", row);
        const std::vector<double> up = row_times(expert + "up_proj.weight", row);
        for (size_t i = 0; i < middle.size(); ++i) {
          middle[i] *= up[i] / (1.0 + std::exp(-middle[i]));
        }
        const std::vector<double> down = row_times(expert + "down_proj.weight", middle);
        const double weight = config.normalized ? p[e] / chosen : p[e];
        for (size_t i = 0; i < y.size(); ++i) y[i] += weight * down[i];
      }
      all.push_back(std::move(y));
    }
    return all;
  }

  ExpertsConfig config;
  Experts experts;
  std::map<std::string, std::vector<double>> values;
};

TEST(Experts, MatchNaiveLoops) {
  for (const bool normalized : {false, true}) {
    for (const int64_t per_token : {1, 2, 5}) {
      SCOPED_TRACE(concat(per_token, normalized ? " normalized" : ""));
      Case c({6, 4, 5, per_token, normalized});
      const Tensor x = random({9, 6}, 3);
      const std::vector<double> flat = x.to_vector<double>();
      Rows rows;
      for (size_t t = 0; t < 9; ++t) rows.emplace_back(&flat[t * 6], &flat[t * 6] + 6);
      std::vector<int64_t> counts(5, 0), got_counts(5, 0);
      std::vector<double> want;
      for (const std::vector<double>& row : c.expected(rows, counts)) {
        want.insert(want.end(), row.begin(), row.end());
      }
      const Var y = c.experts.forward(Var(x), &got_counts);
      EXPECT_LE(relative_distance(y.value().to_vector<double>(), want), 1e-12);
      EXPECT_EQ(got_counts, counts);
      EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 9 * per_token);
    }
  }
}

TEST(Experts, GradientsMatchCentralDifferences) {
  for (const bool normalized : {false, true}) {
    Case c({5, 3, 4, 2, normalized});
    std::vector<Tensor> inputs = {random({7, 5}, 4)};
    c.experts.visit("", [&](const std::string&, Var& p) { inputs.push_back(p.value()); });
    const auto result = gradcheck(
        [&](const std::vector<Var>& in) {
          size_t i = 1;
          c.experts.visit("", [&](const std::string&, Var& p) { p = in[i++]; });
          return c.experts.forward(in[0], nullptr);
        },
        inputs);
    EXPECT_TRUE(result.passed) << result.message;
  }
}

TEST(Experts, OfEqualProbabilitiesTheFirstAreChosen) {
  Case c({4, 3, 6, 2, true});
  kernels::fill(c.experts.router().value(), 0.0);
  std::vector<int64_t> counts(6, 0);
  c.experts.forward(Var(random({5, 4}, 5)), &counts);
  EXPECT_EQ(counts, (std::vector<int64_t>{5, 5, 0, 0, 0, 0}));
}

TEST(Experts, NaNGivesNaN) {
  Case c({4, 3, 6, 2, false});
  const Tensor x = random({3, 4}, 5);
  x.data<double>()[5] = NAN;
  std::vector<int64_t> counts(6, 0);
  const auto y = c.experts.forward(Var(x), &counts).value().to_vector<double>();
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 6);
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_FALSE(std::isnan(y[0]));
}

TEST(Experts, BytesDoNotDependOnTheNumberOfThreads) {
  const auto gradients = [](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Experts experts({64, 48, 8, 2, true}, Dtype::f32, Device::cpu());
    uint64_t stream = 0;
    std::vector<Var> all;
    experts.visit("", [&](const std::string&, Var& p) {
      kernels::fill_normal(p.value(), 0.0, 0.1, 3, stream++);
      p.set_requires_grad(true);
      all.push_back(p);
    });
    const Tensor x({600, 64}, Dtype::f32);
    kernels::fill_normal(x, 0.0, 1.0, 4, 0);
    const Var leaf(x, true);
    all.push_back(leaf);
    std::vector<std::vector<float>> values;
    Tape tape;
    const Var y = experts.forward(leaf, nullptr);
    values.push_back(y.value().to_vector<float>());
    tape.backward(y, x);
    for (const Var& v : all) values.push_back(v.grad().to_vector<float>());
    omp_set_num_threads(before);
    return values;
  };
  const auto one = gradients(1);
  for (const int threads : {2, 3}) EXPECT_EQ(gradients(threads), one) << threads;
}

TEST(Experts, SizesThatDoNotFitAreRefused) {
  expect_error<std::invalid_argument>(
      [] {
        Experts({4, 3, 2, 3, false}, Dtype::f32, Device::cpu());
      },
      {"3 of 2 experts"});
}

// ---- quantization ------------------------------------------------------------------------------

constexpr int64_t starved = 5;  // expert of block 0

/// The fixture with a router in block 0 that never chooses expert 5: of the logits r, -r, r', -r'
/// two are above 0, which is its own.
std::unique_ptr<Transformer> starving_model() {
  auto model = load_model(fixture("qwen3-moe"), Dtype::f32, Device::cpu());
  for (auto& [path, p] : parameters_of(*model)) {
    if (path != "model.layers.0.mlp.gate.weight") continue;
    const int64_t width = p.size(1);
    float* w = p.value().data<float>();
    for (int64_t j = 0; j < width; ++j) {
      w[width + j] = -w[j];
      w[3 * width + j] = -w[2 * width + j];
      w[starved * width + j] = 0.0f;
    }
  }
  return model;
}

Segments segments() {
  Segments all(4);
  for (size_t s = 0; s < all.size(); ++s) {
    for (int32_t t = 0; t < 12; ++t) {
      all[s].push_back((7 * t + 13 * static_cast<int32_t>(s) + t * t) % 64);
    }
  }
  return all;
}

Settings settings_of(const std::string& method, int wbits, int abits,
                     const nlohmann::json& changes) {
  Settings settings = method_settings(method, wbits, abits);
  apply_json(settings, changes);
  settings.batch = 2;
  settings.epochs = std::min<int64_t>(settings.epochs, 1);
  return settings;
}

std::vector<WindowLinear> linears_of_expert(Transformer& model, int64_t block, int64_t expert) {
  std::vector<WindowLinear> found;
  for (const WindowLinear& l : linears_of(model, {block, 1})) {
    if (l.linear->expert == expert) found.push_back(l);
  }
  return found;
}

std::vector<std::vector<double>> weights_of(Transformer& model, int64_t block, int64_t expert) {
  std::vector<std::vector<double>> all;
  for (const WindowLinear& l : linears_of_expert(model, block, expert)) {
    const WeightQuantizer& q = *l.quantizers()->weight_quantizer;
    all.push_back(dequantize(q.packed(), Dtype::f32, Device::cpu()).to_vector<double>());
  }
  return all;
}

const nlohmann::json without_learning = {{"reconstruct", "none"}, {"polish_epochs", 0}};

TEST(StarvedExpert, IsRoundedToNearest) {
  const auto nearest = starving_model();
  const nlohmann::json grid = {{"scale_search", "min_max"},
                               {"granularity", "per_channel"},
                               {"group_size", 0},
                               {"symmetric", false}};
  auto plain = without_learning;
  plain.update(grid);
  quantize(*nearest, segments(), settings_of("nearest", 3, 16, grid), nullptr, {});
  const auto want = weights_of(*nearest, 0, starved);
  ASSERT_EQ(want.size(), 3u);
  for (const char* solver : {"gptq", "gptq:act_order", "gptaq", "weighted"}) {
    SCOPED_TRACE(solver);
    auto changes = plain;
    changes["solver"] = solver;
    const auto model = starving_model();
    quantize(*model, segments(), settings_of("cbq_windows", 3, 16, changes), nullptr, {});
    EXPECT_EQ(weights_of(*model, 0, starved), want);
    EXPECT_NE(weights_of(*model, 0, 0), weights_of(*nearest, 0, 0));
  }
  for (const char* method : {"cbq_windows", "adaround", "autoround"}) {
    SCOPED_TRACE(method);
    const auto model = starving_model();
    auto changes = grid;
    changes["preprocess"] = "none";
    quantize(*model, segments(), settings_of(method, 3, 16, changes), nullptr, {});
    EXPECT_EQ(weights_of(*model, 0, starved), want);
  }
}

TEST(StarvedExpert, IsReportedWithCounts) {
  const auto model = starving_model();
  auto changes = without_learning;
  changes["solver"] = "gptq";
  const RunResult result =
      quantize(*model, segments(), settings_of("cbq_windows", 4, 16, changes), nullptr, {});
  std::vector<std::string> lines;
  for (const std::string& note : result.notes) {
    if (note.find("calibration tokens") != std::string::npos) lines.push_back(note);
  }
  ASSERT_EQ(lines.size(), 2u);  // one per block
  for (const char* part : {"block 0: each of 8 experts got 0 to ", "12 on average",
                           "few reached expert 5 (0)", "rounded to nearest"}) {
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0] << ": " << part;
  }
  EXPECT_EQ(lines[1].find("expert 5 (0)"), std::string::npos) << lines[1];
  EXPECT_EQ(model->block(0).expert_rows, nullptr);
}

TEST(Experts, AreSolvedTowardsTheirOwnInputs) {
  for (const char* solver : {"gptq", "gptaq"}) {
    auto changes = without_learning;
    changes["solver"] = solver;
    const auto model = load_model(fixture("qwen3-moe-mixed"), Dtype::f32, Device::cpu());
    const RunResult result =
        quantize(*model, segments(), settings_of("cbq_windows", 4, 16, changes), nullptr, {});
    const auto said = std::count_if(
        result.notes.begin(), result.notes.end(),
        [](const std::string& note) { return note.find("on their own inputs") != note.npos; });
    EXPECT_EQ(said, solver == std::string("gptaq") ? 1 : 0) << solver;  // one block has experts
  }
}

TEST(StarvedExpert, HasTheRangesOfTheOthersWhereTheyAreStatic) {
  for (const char* granularity : {"per_tensor", "per_cluster"}) {
    SCOPED_TRACE(granularity);
    const auto model = starving_model();
    auto changes = without_learning;
    changes.update({{"act_dynamic", false}, {"act_granularity", granularity}});
    if (std::string(granularity) == "per_cluster") changes["preprocess"] = "reorder:3,2";
    quantize(*model, segments(), settings_of("nearest", 8, 8, changes), nullptr, {});
    double low = 0.0, high = 0.0;
    const auto range_of = [](const WindowLinear& l) {
      for (const auto& [name, tensor] : l.quantizers()->activation_quantizer->snapshot()) {
        if (name == "range") return tensor.to_vector<double>();
      }
      return std::vector<double>();
    };
    for (int64_t e = 0; e < 8; ++e) {
      if (e == starved) continue;
      for (const double end : range_of(linears_of_expert(*model, 0, e)[2])) {
        low = std::min(low, end);
        high = std::max(high, end);
      }
    }
    const std::vector<double> own = range_of(linears_of_expert(*model, 0, starved)[2]);
    ASSERT_FALSE(own.empty());
    for (size_t i = 0; i < own.size(); i += 2) {
      EXPECT_EQ(own[i], low);
      EXPECT_EQ(own[i + 1], high);
    }
    const ExpectedResults expected("qwen3-moe");
    const TemporaryFolder folder;
    save_quantized(*model, folder / "q");
    const auto again = load_any_model(folder / "q", Dtype::f32, Device::cpu());
    EXPECT_EQ(logits_of(*again, expected), logits_of(*model, expected));
  }
}

TEST(StarvedExpert, HasReadZeros) {
  const auto model = starving_model();
  const CalibrationStatistics statistics = collect_statistics(*model, segments());
  const InputStatistics& none = statistics.of("model.layers.0.mlp.experts.5.up_proj");
  EXPECT_EQ(none.tokens, 0);
  EXPECT_EQ(none.abs_max, std::vector<double>(32, 0.0));
  EXPECT_EQ(none.abs_mean, std::vector<double>(32, 0.0));
  EXPECT_EQ(none.sample.shape(), (Shape{1, 32}));
  int64_t tokens = 0;
  for (int64_t e = 0; e < 8; ++e) {
    tokens += statistics.of(concat("model.layers.0.mlp.experts.", e, ".up_proj")).tokens;
  }
  EXPECT_EQ(tokens, 4 * 12 * 2);
}

class EveryMethod : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryMethod, RunsOnAModelWithAStarvedExpert) {
  const MethodFile file = find_method(GetParam());
  size_t ran = 0;
  for (const auto& [wbits, abits] : {std::pair(4, 16), std::pair(4, 4), std::pair(8, 8)}) {
    if (!file.obstacle(wbits, abits).empty()) continue;
    SCOPED_TRACE(concat("W", wbits, "A", abits));
    const auto model = starving_model();
    Settings settings = settings_of(GetParam(), wbits, abits, nlohmann::json::object());
    settings.polish_epochs = std::min<int64_t>(settings.polish_epochs, 1);
    if (settings.group_size > 16) settings.group_size = 16;  // an expert's down has 16 inputs
    apply_global_transforms(*model, settings);
    quantize(*model, segments(), settings, nullptr, {});
    const ExpectedResults expected("qwen3-moe");
    const std::vector<double> after = logits_of(*model, expected);
    const auto before = logits_of(*starving_model(), expected);
    EXPECT_LT(relative_distance(after, before), 2.0);
    ++ran;
  }
  EXPECT_GT(ran, 0u);
}

INSTANTIATE_TEST_SUITE_P(Experts, EveryMethod, ::testing::ValuesIn(method_names()),
                         [](const auto& one) { return test_name(one.param); });

}  // namespace
}  // namespace cbq::test::test_experts
