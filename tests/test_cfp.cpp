// Coarse-to-fine pre-processing: Algorithm 1 against a double loop, and what is done with its
// answer.
#include <algorithm>
#include <cmath>
#include <random>

#include "quant/transforms/local/arithmetic.h"
#include "quant/transforms/local/outlier_split.h"
#include "tests/test_data.h"
#include "tests/test_preprocess_model.h"

namespace cbq::test_cfp {
namespace {

using test::context_of;
using test::joined;
using test::layer;
using test::small_model;
using test::small_segments;

/// Algorithm 1 word by word: everything is sorted, every variance is computed anew.
OutlierSplit naive_outliers(std::vector<double> x, const OutlierConfig& config) {
  std::sort(x.begin(), x.end());
  const size_t n = x.size();
  const double q1 = x[n / 4], q3 = x[3 * n / 4];
  const double threshold = q3 + config.lambda1 * (q3 - q1);
  size_t first = 0;
  while (first < n && x[first] <= threshold) ++first;
  OutlierSplit best;
  best.coarse = static_cast<int64_t>(n - first);
  best.threshold = x.back();
  if (best.coarse < config.least_coarse) return best;
  for (size_t split = first + (config.printed_variance ? 1 : 0); split < n; ++split) {
    const size_t from = config.printed_variance ? first : 0;
    double mean = 0.0, variance = 0.0;
    for (size_t i = from; i < split; ++i) mean += x[i] / static_cast<double>(split - from);
    for (size_t i = from; i < split; ++i) {
      variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(split - from);
    }
    const double metric = std::pow(x[split] - x[split - 1], 2.0) - config.lambda2 * variance;
    if (metric > best.metric) {
      best.metric = metric;
      best.outliers = static_cast<int64_t>(n - split);
      best.threshold = x[split - 1];
    }
  }
  return best;
}

std::vector<double> gaussian_magnitudes(int64_t n, uint64_t seed) {
  const Tensor t({n}, Dtype::f64);
  kernels::fill_normal(t, 0.0, 1.0, seed, 0);
  std::vector<double> x = t.to_vector<double>();
  for (double& v : x) v = std::abs(v);
  return x;
}

TEST(OutlierSplit, EqualsTheDoubleLoop) {
  std::mt19937_64 random(3);
  std::cauchy_distribution<double> heavy;
  int with_outliers = 0, without = 0;
  for (int64_t n = 1; n <= 260; n += (n < 40 ? 1 : 10)) {
    for (int variant = 0; variant < 8; ++variant) {
      std::vector<double> x;
      for (int64_t i = 0; i < n; ++i) {
        const double v = std::abs(heavy(random));
        x.push_back(variant % 2 == 0 ? v : std::round(v));  // ties
      }
      OutlierConfig config;
      config.printed_variance = variant >= 4;
      config.lambda2 = variant % 4 >= 2 ? 0.3 : 1.0;
      const OutlierSplit expected = naive_outliers(x, config), actual = find_outliers(x, config);
      SCOPED_TRACE(concat("n ", n, " variant ", variant));
      ASSERT_EQ(actual.coarse, expected.coarse);
      ASSERT_EQ(actual.outliers, expected.outliers);
      ASSERT_EQ(actual.threshold, expected.threshold);
      ASSERT_NEAR(actual.metric, expected.metric, 1e-9 * std::max(1.0, expected.metric));
      ++(expected.outliers > 0 ? with_outliers : without);
    }
  }
  EXPECT_GT(with_outliers, 100);
  EXPECT_GT(without, 30);
}

TEST(OutlierSplit, FlagsNothingOnGaussianValues) {
  // The largest of n Gaussian magnitudes stands alone by more than a deviation of |W| (0.6) about
  // once in 20 times, so a seed may flag one value; 1.7 % of the values is what must not happen.
  int64_t flagged = 0, flagged_as_printed = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const std::vector<double> x = gaussian_magnitudes(100000, seed);
    const OutlierSplit split = find_outliers(x);
    EXPECT_GT(split.coarse, 1000);
    EXPECT_LE(split.outliers, 1) << "seed " << seed;
    flagged += split.outliers;
    OutlierConfig printed;
    printed.printed_variance = true;
    flagged_as_printed += find_outliers(x, printed).outliers;
  }
  EXPECT_LE(flagged, 2);
  EXPECT_GT(flagged_as_printed, 10000);
}

TEST(OutlierSplit, FindsAllPlantedOutliers) {
  std::vector<double> x = gaussian_magnitudes(100000, 4);
  for (int i = 0; i < 200; ++i) x[static_cast<size_t>(37 + 491 * i)] = 8.0 + 0.02 * i;
  const OutlierSplit split = find_outliers(x);
  EXPECT_EQ(split.outliers, 200);
  EXPECT_LT(split.threshold, 8.0);
}

TEST(OutlierSplit, OneValueAboveTheCoarseThresholdIsNoOutlier) {
  std::vector<double> x = {1, 2, 3, 4, 5, 6, 7, 8, 100};
  EXPECT_EQ(find_outliers(x).outliers, 0);
  EXPECT_EQ(find_outliers(x).threshold, 100.0);
  EXPECT_EQ(find_outliers(x, {.least_coarse = 1}).outliers, 1);
  EXPECT_EQ(find_outliers(x, {.least_coarse = 1}).threshold, 8.0);
  x.insert(x.end(), {1, 2, 3, 4, 5, 101});
  EXPECT_EQ(find_outliers(x).outliers, 2);
}

TEST(OutlierSplit, RejectsWhatItCannotSort) {
  expect_error<std::invalid_argument>([] { find_outliers({}); }, {"no values"});
  expect_error<std::invalid_argument>([] { find_outliers({1.0, std::nan(""), 2.0}); }, {"nan"});
}

TEST(CfpWeight, TruncatesExactlyAtTheLargestKeptValue) {
  for (const bool per_channel : {false, true}) {
    SCOPED_TRACE(per_channel);
    auto model = small_model(4);
    const std::string path = "model.layers.1.mlp.gate_proj.weight";
    Linear& gate = layer(*model, 1, "mlp.gate_proj");
    std::vector<double> w = gate.weight.value().to_vector<double>();
    // Row 3 holds four outliers of either sign; all else is at most 0.5.
    for (double& v : w) v = std::clamp(v, -0.5, 0.5);
    const std::vector<size_t> planted = {3 * 64 + 1, 3 * 64 + 7, 3 * 64 + 30, 3 * 64 + 63};
    for (const size_t i : planted) w[i] = i % 2 == 0 ? 4.0 : -4.5;
    double largest = 0.0;  // of the tensor, or of the row
    for (size_t i = 0; i < w.size(); ++i) {
      const bool counts = !per_channel || i / 64 == 3;
      if (counts && std::abs(w[i]) < 4.0) largest = std::max(largest, std::abs(w[i]));
    }
    gate.weight.set_value(Tensor::from(w, gate.weight.shape()));
    PreprocessContext context = context_of(4, 16);
    const std::string stage = per_channel ? "cfp_weight:per_channel" : "cfp_weight";
    const auto notes = apply_preprocess(stage, *model, {}, context);
    const std::vector<double> after = test::values_of(*model)[path];
    for (size_t i = 0; i < w.size(); ++i) {
      if (per_channel && i / 64 != 3) continue;  // other rows may have outliers of their own
      const bool is_planted = std::find(planted.begin(), planted.end(), i) != planted.end();
      ASSERT_EQ(after[i], is_planted ? std::copysign(largest, w[i]) : w[i]) << i;
    }
    EXPECT_NE(joined(notes).find("clamped"), std::string::npos);
  }
}

TEST(CfpWeight, LeavesLayersInFloatingPointAlone) {
  auto model = small_model(4);
  test::scale_rows(layer(*model, 0, "self_attn.q_proj"), {1, 2}, 100.0);
  const auto before = test::values_of(*model);
  PreprocessContext context = context_of(16, 4);
  const auto notes = apply_preprocess("cfp_weight", *model, {}, context);
  EXPECT_EQ(test::values_of(*model), before);
  EXPECT_NE(joined(notes).find("floating point"), std::string::npos);
}

TEST(CfpWeight, EightBitsAreUnharmedWithoutOutliers) {
  const Tensor w({256, 1024}, Dtype::f32);
  double untouched_sum = 0.0, printed_sum = 0.0;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    kernels::fill_normal(w, 0.0, 0.02, seed, 1);
    const auto error_of_w8 = [&](const OutlierConfig& config) {
      std::vector<double> magnitudes = w.to_vector<double>();
      for (double& v : magnitudes) v = std::abs(v);
      const double t = find_outliers(magnitudes, config).threshold;
      const std::vector<double> original = w.to_vector<double>();
      double error = 0.0;
      for (size_t row = 0; row < 256; ++row) {
        double low = 0.0, high = 0.0;
        for (size_t c = 0; c < 1024; ++c) {
          low = std::min(low, std::max(original[row * 1024 + c], -t));
          high = std::max(high, std::min(original[row * 1024 + c], t));
        }
        const double s = (high - low) / 255.0;
        for (size_t c = 0; c < 1024; ++c) {
          const double v = original[row * 1024 + c], cut = std::clamp(v, -t, t);
          error += std::pow(s * std::nearbyint(cut / s) - v, 2.0);
        }
      }
      return error;
    };
    const double untouched = error_of_w8({.least_coarse = 1 << 30});
    EXPECT_LT(error_of_w8({}), 1.02 * untouched);
    untouched_sum += untouched;
    printed_sum += error_of_w8({.printed_variance = true});
  }
  EXPECT_GT(printed_sum, 10.0 * untouched_sum);
}

TEST(CfpActivation, ScalesOutlierChannelsByTheSquareRoot) {
  auto model = small_model(2);
  // Channels 5 and 9 of up_proj's output are 50 times the others'.
  test::scale_rows(layer(*model, 0, "mlp.up_proj"), {5, 9}, 50.0);
  const CalibrationStatistics statistics = collect_statistics(*model, small_segments());
  const std::vector<double> maxima = statistics.of("model.layers.0.mlp.down_proj").abs_max;
  const double threshold = find_outliers(maxima).threshold;
  auto before = test::values_of(*model);
  PreprocessContext context = context_of(4, 4);
  apply_preprocess("cfp_activation", *model, small_segments(), context);
  auto after = test::values_of(*model);
  const std::string up = "model.layers.0.mlp.up_proj.", down = "model.layers.0.mlp.down_proj.";
  for (size_t c = 0; c < 96; ++c) {
    const bool flagged = maxima[c] > threshold;
    EXPECT_TRUE(flagged || (c != 5 && c != 9));
    const double s = flagged ? std::sqrt(maxima[c] / threshold) : 1.0;
    EXPECT_DOUBLE_EQ(after[up + "bias"][c], before[up + "bias"][c] / s);
    EXPECT_DOUBLE_EQ(after[down + "weight"][c], before[down + "weight"][c] * s);
    const double w = after[up + "weight"][c * 64 + 2];
    EXPECT_NE(w, 0.0);
  }
}

}  // namespace
}  // namespace cbq::test_cfp
