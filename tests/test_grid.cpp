// Scales and zero points: the exact rule, the search, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/grid.h"
#include "tests/reference/quantize.h"
#include "tests/test_data.h"

namespace cbq::test_grid {
namespace {

Tensor normal(Shape shape, uint64_t stream, Dtype dtype = Dtype::f32) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, 0.0, 0.02, 7, stream);
  return t;
}

WeightConfig config_of(int bits, ScaleSearch search = ScaleSearch::min_max) {
  WeightConfig config;
  config.bits = bits;
  config.search = search;
  return config;
}

/// The weights that share scale `index`.
std::vector<double> group_of(const Tensor& w, const WeightGrid& grid, int64_t index) {
  const std::vector<double> all = w.to_vector<double>();
  const int64_t n = w.count() / grid.scale.count();
  return {all.begin() + index * n, all.begin() + (index + 1) * n};
}

TEST(Grid, MinMaxIsTheRuleExactly) {
  const Tensor w = normal({6, 32}, 1);
  for (int bits : {1, 2, 3, 4, 8}) {
    for (int64_t group : {0, 8}) {
      WeightConfig config = config_of(bits);
      if (group > 0) {
        config.granularity = Granularity::per_group;
        config.group_size = group;
      }
      const WeightGrid grid = weight_grid(w, config, "layer");
      ASSERT_EQ(grid.scale.shape(), (Shape{6, group > 0 ? 4 : 1}));
      const std::vector<float> s = grid.scale.to_vector<float>();
      const std::vector<float> z = grid.zero_point.to_vector<float>();
      for (size_t i = 0; i < s.size(); ++i) {
        const auto expected = reference::min_max_grid<float>(
            group_of(w, grid, static_cast<int64_t>(i)), static_cast<float>(max_code(bits)));
        EXPECT_EQ(s[i], static_cast<float>(expected.scale)) << bits << " bits, group " << i;
        EXPECT_EQ(z[i], static_cast<float>(expected.zero_point)) << bits << " bits, group " << i;
      }
    }
  }
}

TEST(Grid, PerTensorHasOneScale) {
  const Tensor w = normal({6, 32}, 1);
  WeightConfig config = config_of(4);
  config.granularity = Granularity::per_tensor;
  const WeightGrid grid = weight_grid(w, config, "layer");
  ASSERT_EQ(grid.scale.shape(), (Shape{1, 1}));
  const auto expected = reference::min_max_grid<float>(w.to_vector<double>(), 15.0f);
  EXPECT_EQ(grid.scale.item(), expected.scale);
  EXPECT_EQ(grid.zero_point.item(), expected.zero_point);
}

TEST(Grid, TiesOfTheZeroPointGoToTheEvenCode) {
  // -low / s = 0.5 and 1.5 for two rows of 2 bits: 0 and 2.
  const Tensor w = Tensor::from<float>({-1, 5, -3, 3}, {2, 2});
  const WeightGrid grid = weight_grid(w, config_of(2), "layer");
  EXPECT_EQ(grid.scale.to_vector<float>(), (std::vector<float>{2, 2}));
  EXPECT_EQ(grid.zero_point.to_vector<float>(), (std::vector<float>{0, 2}));
}

TEST(Grid, SymmetricForms) {
  const Tensor w = Tensor::from<float>({-3, 1.5, 0, 2}, {1, 4});
  WeightConfig config = config_of(3);
  config.symmetric = true;
  EXPECT_FLOAT_EQ(weight_grid(w, config, "l").scale.item(), 6.0 / 7.0);
  EXPECT_EQ(weight_grid(w, config, "l").zero_point.item(), 4.0);
  config.form = SymmetricForm::restricted;
  EXPECT_FLOAT_EQ(weight_grid(w, config, "l").scale.item(), 1.0);
  EXPECT_EQ(weight_grid(w, config, "l").zero_point.item(), 4.0);
}

TEST(Grid, ZerosConstantsAndTinyValues) {
  const Tensor w = Tensor::from<float>({0, 0, 0, 5, 5, 5, -2, -2, -2, 1e-42f, 0, -1e-42f}, {4, 3});
  for (ScaleSearch search : {ScaleSearch::min_max, ScaleSearch::squared_error}) {
    const WeightGrid grid = weight_grid(w, config_of(2, search), "layer");
    const std::vector<float> s = grid.scale.to_vector<float>();
    const std::vector<float> z = grid.zero_point.to_vector<float>();
    EXPECT_EQ(s[0], 1.0f);
    EXPECT_EQ(s[3], 1.0f);
    // A constant row is met by one of its codes.
    EXPECT_LT(reference::squared_error({5, 5, 5}, {s[1], z[1]}, 3), 1e-9);
    EXPECT_LT(reference::squared_error({-2, -2, -2}, {s[2], z[2]}, 3), 1e-9);
  }
}

TEST(Grid, SearchIsAsGoodAsBruteForce) {
  for (bool symmetric : {false, true}) {
    for (int bits : {2, 3, 4}) {
      WeightConfig config = config_of(bits, ScaleSearch::squared_error);
      config.symmetric = symmetric;
      const Tensor w = normal({8, 64}, 3);
      float* first = w.data<float>();
      first[5] = 0.2f;  // an outlier in row 0, one-sided
      const double largest = max_code(bits);
      const WeightGrid found = weight_grid(w, config, "layer");
      config.search = ScaleSearch::min_max;
      const WeightGrid plain = weight_grid(w, config, "layer");
      double total = 0.0, total_brute = 0.0;
      for (int64_t i = 0; i < 8; ++i) {
        const std::vector<double> x = group_of(w, found, i);
        const auto at = [&](const WeightGrid& g) {
          const auto k = static_cast<size_t>(i);
          return reference::squared_error(
              x, {g.scale.to_vector<double>()[k], g.zero_point.to_vector<double>()[k]}, largest);
        };
        EXPECT_LE(at(found), at(plain) * (1 + 1e-5)) << bits << " bits, row " << i;
        total += at(found);
        total_brute += reference::brute_force_error(x, largest, 0.02, symmetric);
      }
      EXPECT_LT(total, 1.02 * total_brute) << bits << " bits, symmetric " << symmetric;
    }
  }
}

TEST(Grid, EndsAreSearchedIndependently) {
  // One outlier on the right: clipping both ends alike would cut the left side for nothing.
  Tensor w = normal({1, 1024}, 4);
  w.data<float>()[17] = 0.15f;
  const WeightGrid grid = weight_grid(w, config_of(2, ScaleSearch::squared_error), "layer");
  const std::vector<double> x = w.to_vector<double>();
  const double low = *std::min_element(x.begin(), x.end());
  double alike = INFINITY;
  for (double a = 1.0; a > 0.01; a -= 0.01) {
    const double s = a * (0.15 - low) / 3, z = std::nearbyint(-a * low / s);
    alike = std::min(alike, reference::squared_error(x, {s, z}, 3));
  }
  const double found = reference::squared_error(x, {grid.scale.item(), grid.zero_point.item()}, 3);
  EXPECT_LT(found, 0.97 * alike);
}

TEST(Grid, DoubleWeightsHaveDoubleScales) {
  const Tensor w = normal({3, 16}, 5, Dtype::f64);
  const WeightGrid grid = weight_grid(w, config_of(4), "layer");
  ASSERT_EQ(grid.scale.dtype(), Dtype::f64);
  const auto expected = reference::min_max_grid<double>(group_of(w, grid, 1), 15.0);
  EXPECT_EQ(grid.scale.to_vector<double>()[1], expected.scale);
}

TEST(Grid, RefusesWhatCannotBe) {
  const Tensor w = normal({4, 96}, 6);
  using Invalid = std::invalid_argument;
  WeightConfig config = config_of(1);
  config.symmetric = true;
  config.form = SymmetricForm::restricted;
  expect_error<Invalid>([&] { weight_grid(w, config, "model.q"); },
                        {"model.q", "1-bit", "full_range"});
  config = config_of(4);
  config.granularity = Granularity::per_group;
  config.group_size = 64;
  expect_error<Invalid>([&] { weight_grid(w, config, "model.q"); },
                        {"model.q", "64", "96", "32", "48"});
  config.granularity = Granularity::per_token;
  expect_error<Invalid>([&] { weight_grid(w, config, "model.q"); }, {"model.q", "per_token"});
  expect_error<Invalid>([&] { weight_grid(w, config_of(0), "model.q"); }, {"model.q", "1 to 8"});
  expect_error<Invalid>([&] { weight_grid(w, config_of(9), "model.q"); }, {"model.q", "1 to 8"});
  expect_error<Invalid>([&] { weight_grid(w, config_of(16), "model.q"); }, {"model.q", "16"});
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    Tensor damaged = w.clone();
    damaged.data<float>()[100] = bad;
    expect_error<Invalid>([&] { weight_grid(damaged, config_of(4), "model.q"); },
                          {"model.q", "NaN or infinity"});
  }
}

TEST(Grid, NamesRoundTrip) {
  for (auto g : {Granularity::per_tensor, Granularity::per_channel, Granularity::per_group,
                 Granularity::per_token}) {
    EXPECT_EQ(granularity_from_name(name_of(g)), g);
  }
  for (auto f : {SymmetricForm::full_range, SymmetricForm::restricted}) {
    EXPECT_EQ(symmetric_form_from_name(name_of(f)), f);
  }
  for (auto s : {ScaleSearch::min_max, ScaleSearch::squared_error}) {
    EXPECT_EQ(scale_search_from_name(name_of(s)), s);
  }
  expect_error<std::invalid_argument>([] { granularity_from_name("row"); },
                                      {"row", "per_channel", "per_group"});
}

}  // namespace
}  // namespace cbq::test_grid
