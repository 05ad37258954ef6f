// Calibration statistics against a recorder that simply keeps everything.
#include <algorithm>
#include <cmath>

#include "quant/transforms/local/statistics.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test_preprocess_statistics {
namespace {

class KeepEverything : public LinearTransform {
 public:
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    for (const double v : x.value().to_vector<double>()) values.push_back(v);
    return x;
  }
  std::vector<double> values;
};

TEST(Statistics, EqualThoseOfTheWholeInput) {
  auto model = test::small_model(2);
  std::map<std::string, std::shared_ptr<KeepEverything>> kept;
  for (int64_t b = 0; b < 2; ++b) {
    for (auto& [name, linear] : model->blocks[static_cast<size_t>(b)]->linears()) {
      auto keeper = std::make_shared<KeepEverything>();
      kept[model->block_prefix(b) + name] = keeper;
      linear->transform = keeper;
    }
  }
  test::logits_of(*model);  // 4 segments of 20 tokens, 2 of 13
  const size_t seen = kept.begin()->second->values.size();
  const CalibrationStatistics statistics =
      collect_statistics(*model, test::small_segments(), {.sample_rows = 25});
  EXPECT_EQ(kept.begin()->second->values.size(), seen) << "the model's own transforms ran";

  for (const auto& [path, keeper] : kept) {
    SCOPED_TRACE(path);
    const InputStatistics& s = statistics.of(path);
    const size_t in = path.ends_with("down_proj") ? 96 : 64;
    const size_t tokens = 4 * 20 + 2 * 13;
    ASSERT_EQ(keeper->values.size(), tokens * in);
    EXPECT_EQ(s.tokens, static_cast<int64_t>(tokens));
    ASSERT_EQ(s.abs_max.size(), in);
    const auto near = [](double expected, double actual) {
      return std::abs(expected - actual) <= 1e-12 * std::max(1.0, std::abs(expected));
    };
    for (size_t c = 0; c < in; ++c) {
      double low = INFINITY, high = -INFINITY;
      for (size_t t = 0; t < tokens; ++t) {
        low = std::min(low, keeper->values[t * in + c]);
        high = std::max(high, keeper->values[t * in + c]);
      }
      EXPECT_TRUE(near(low, s.min[c]));
      EXPECT_TRUE(near(high, s.max[c]));
      EXPECT_TRUE(near(std::max(std::abs(low), std::abs(high)), s.abs_max[c]));
    }
    // 106 tokens, at most 25 rows: every fifth.
    ASSERT_EQ(s.sample.shape(), (Shape{22, static_cast<int64_t>(in)}));
    const std::vector<double> sample = s.sample.to_vector<double>();
    for (size_t i = 0; i < sample.size(); ++i) {
      const double expected = keeper->values[i / in * 5 * in + i % in];
      EXPECT_NEAR(sample[i], expected, 1e-6 * std::max(1.0, std::abs(expected)));
    }
  }
  for (int64_t b = 0; b < 2; ++b) {
    for (auto& [name, linear] : model->blocks[static_cast<size_t>(b)]->linears()) {
      EXPECT_EQ(linear->transform, kept[model->block_prefix(b) + name]) << "not put back";
    }
  }
}

TEST(Statistics, AreSharedByLinearsThatReadTheSameActivation) {
  auto model = test::small_model(2);
  const CalibrationStatistics statistics = collect_statistics(*model, test::small_segments());
  const std::string p = "model.layers.1.";
  EXPECT_EQ(&statistics.of(p + "self_attn.q_proj"), &statistics.of(p + "self_attn.v_proj"));
  EXPECT_EQ(&statistics.of(p + "mlp.gate_proj"), &statistics.of(p + "mlp.up_proj"));
  EXPECT_NE(&statistics.of(p + "self_attn.q_proj"), &statistics.of(p + "self_attn.o_proj"));
  EXPECT_NE(&statistics.of(p + "self_attn.q_proj"),
            &statistics.of("model.layers.0.self_attn.q_proj"));
  EXPECT_EQ(statistics.of(p + "self_attn.q_proj").sample.size(0), 106);
}

TEST(Statistics, RejectBadInput) {
  auto model = test::small_model(2);
  expect_error<std::invalid_argument>([&] { collect_statistics(*model, {}); }, {"no tokens"});
  expect_error<std::invalid_argument>([&] { collect_statistics(*model, {{}}); }, {"no tokens"});
  expect_error<std::invalid_argument>(
      [&] {
        collect_statistics(*model, {{1}, {1, 50}});
      },
      {"segment 1", "50"});
  expect_error<std::invalid_argument>(
      [&] { collect_statistics(*model, {{1}}, {.sample_rows = 0}); }, {"sample_rows"});
  const CalibrationStatistics statistics = collect_statistics(*model, {{1, 2}});
  expect_error<std::invalid_argument>([&] { statistics.of("model.layers.7.nothing"); },
                                      {"model.layers.7.nothing"});
}

}  // namespace
}  // namespace cbq::test_preprocess_statistics
