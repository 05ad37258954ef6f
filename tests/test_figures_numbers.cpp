// The numbers of figures against functions that are known and loops in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cbq/quantizers.h"
#include "experiments/figures/hessian.h"
#include "experiments/figures/input_hessian.h"
#include "experiments/figures/loss_surface.h"
#include "experiments/figures/outlier_site.h"
#include "experiments/figures/scaled_blocks.h"
#include "nn/perplexity.h"
#include "quant/transforms/global/outlier_transform.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_figures_numbers {
namespace {

const Matrix known = {{3.0, -1.0, 0.5}, {-1.0, 2.0, 0.25}, {0.5, 0.25, -4.0}};

double quadratic(const std::vector<double>& a) {
  double sum = 7.0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += (static_cast<double>(i) - 1.0) * a[i];
    for (size_t j = 0; j < a.size(); ++j) sum += 0.5 * a[i] * known[i][j] * a[j];
  }
  return sum;
}

TEST(FiniteDifferenceHessian, OfAQuadraticIsItsMatrix) {
  for (const double step : {0.01, 0.1, 1.0}) {
    const Matrix h = finite_difference_hessian(quadratic, 3, step);
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 3; ++j) {
        EXPECT_NEAR(h[i][j], known[i][j], 1e-10 / (step * step)) << i << j;
        EXPECT_EQ(h[i][j], h[j][i]);
      }
    }
  }
}

TEST(FiniteDifferenceHessian, AveragesARoughLoss) {
  // a^2 plus teeth of width 0.001: a step of 0.1 passes over a hundred of them.
  const auto rough = [](const std::vector<double>& a) {
    return a[0] * a[0] + 1e-4 * (std::floor(1000.0 * a[0]) - 1000.0 * a[0]);
  };
  EXPECT_NEAR(finite_difference_hessian(rough, 1, 0.1005)[0][0], 2.0, 0.05);
  EXPECT_GT(std::abs(finite_difference_hessian(rough, 1, 0.0005)[0][0] - 2.0), 50.0);
}

TEST(FiniteDifferenceHessian, CountsItsLossesAndBadInput) {
  int64_t calls = 0, last = 0;
  finite_difference_hessian(
      [&](const std::vector<double>& a) {
        ++calls;
        return quadratic(a);
      },
      3, 0.1,
      [&](int64_t done, int64_t total) {
        EXPECT_EQ(done, last + 1);
        EXPECT_EQ(total, 1 + 2 * 3 * 3);
        last = done;
      });
  EXPECT_EQ(calls, 19);
  EXPECT_EQ(last, 19);
  expect_error<std::invalid_argument>([] { finite_difference_hessian(quadratic, 0, 0.1); },
                                      {"0 coordinates"});
  expect_error<std::invalid_argument>([] { finite_difference_hessian(quadratic, 3, 0.0); },
                                      {"step of 0"});
}

TEST(HessianMeasures, ByHand) {
  // Off the diagonal 2 (1 + 0.5 + 0.25) = 3.5; on it 9.
  EXPECT_NEAR(off_diagonal_share(known), 3.5 / 12.5, 1e-15);
  EXPECT_EQ(off_diagonal_share({{0.0, 0.0}, {0.0, 0.0}}), 0.0);
  EXPECT_NEAR(mean_coupling(known, 1), (1.0 / std::sqrt(6.0) + 0.25 / std::sqrt(8.0)) / 2.0, 1e-15);
  EXPECT_NEAR(mean_coupling(known, 2), 0.5 / std::sqrt(12.0), 1e-15);
  EXPECT_EQ(mean_of({{{1.0, 2.0}}, {{3.0, -2.0}}}), (Matrix{{2.0, 0.0}}));
}

TEST(BlockMeans, UnevenCellsByHand) {
  const Matrix means = absolute_block_means(known, 2);  // rows 0 | 1 and 2
  EXPECT_EQ(means, (Matrix{{3.0, 0.75}, {0.75, (2.0 + 0.25 + 0.25 + 4.0) / 4.0}}));
  EXPECT_EQ(absolute_block_means(known, 9).size(), 3u);
}

/// Keeps what a layer reads.
class Reader : public LinearTransform {
 public:
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    const std::vector<double> values = x.value().to_vector<double>();
    seen.insert(seen.end(), values.begin(), values.end());
    return x;
  }
  std::vector<double> seen;
};

TEST(InputHessian, IsThatOfALoopInDouble) {
  const auto model = tiny_model(3);
  const auto segments = tiny_segments(5, 12);
  std::vector<Matrix> found;
  for_each_input_gram(*model, segments, 3, {}, [&](int64_t block, const InputGram& gram) {
    EXPECT_EQ(block, static_cast<int64_t>(found.size()));
    found.push_back(input_hessian(gram));
  });
  ASSERT_EQ(found.size(), 3u);
  for (int64_t b = 0; b < 3; ++b) {
    Linear& linear = *model->block(b).linears().at(3).linear;
    EXPECT_EQ(linear.transform, nullptr) << "the watch is gone";
    const auto reader = std::make_shared<Reader>();
    linear.transform = reader;
    run_blocks(*model, {0, 3}, embed_segments(*model, segments));
    linear.transform = nullptr;
    const size_t n = found[static_cast<size_t>(b)].size(), tokens = reader->seen.size() / n;
    ASSERT_EQ(tokens, 60u);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (size_t t = 0; t < tokens; ++t) {
          sum += 2.0 * reader->seen[t * n + i] * reader->seen[t * n + j];
        }
        EXPECT_NEAR(found[static_cast<size_t>(b)][i][j], sum / 60.0, 2e-6) << b << i << j;
      }
    }
  }
}

Settings two_bits() {
  Settings s;
  s.wbits = 2;
  s.reconstruct = "cbq";
  s.rounding = "nearest";
  s.grid = "relative";
  return s;
}

/// s (1 + a) (clamp(round(w / (s (1 + a))) + z, 0, 3) - z) for every weight of the block.
void round_weights(Transformer& model, int64_t block, double a) {
  for (const WindowLinear& l : linears_of(model, {block, 1})) {
    const Tensor w = l.linear->weight.value();
    const WeightGrid grid = weight_grid(w, two_bits().weight_config(l.path, false), l.path);
    const auto scales = grid.scale.to_vector<double>(), zeros = grid.zero_point.to_vector<double>();
    std::vector<double> values = w.to_vector<double>();
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t row = i / static_cast<size_t>(w.size(1));
      const double s = scales[row] * (1.0 + a);
      const double code = std::clamp(std::nearbyint(values[i] / s) + zeros[row], 0.0, 3.0);
      values[i] = s * (code - zeros[row]);
    }
    l.linear->weight.set_value(Tensor::from(values, w.shape(), Dtype::f32));
  }
}

TEST(ScaledBlocks, LossIsThatOfRoundedWeights) {
  const auto segments = tiny_segments(4, 12);
  const std::vector<double> a = {0.1, 0.0, -0.15};
  const auto rounded = tiny_model(3);
  for (int64_t b = 0; b < 3; ++b) round_weights(*rounded, b, a[static_cast<size_t>(b)]);
  const auto model = tiny_model(3);
  const double original = perplexity(*model, segments).mean_nll();
  {
    ScaledBlocks scaled(*model, two_bits(), segments);
    EXPECT_NEAR(scaled.loss(a), perplexity(*rounded, segments).mean_nll(), 1e-5);
    EXPECT_GT(std::abs(scaled.loss({0, 0, 0}) - scaled.loss(a)), 1e-4) << "scales matter";
  }
  EXPECT_EQ(perplexity(*model, segments).mean_nll(), original) << "no quantizer is left";
}

TEST(ScaledBlocks, OnlyBlocksBehindTheFirstChangeRunAgain) {
  const auto model = tiny_model(4);
  const auto segments = tiny_segments(2, 8);
  ScaledBlocks scaled(*model, two_bits(), segments);
  const double first = scaled.loss({0, 0, 0, 0});
  EXPECT_EQ(scaled.block_runs(), 4);
  scaled.loss({0, 0, 0, 0.1});
  EXPECT_EQ(scaled.block_runs(), 5);
  scaled.loss({0, 0.1, 0, 0.1});
  EXPECT_EQ(scaled.block_runs(), 8);
  EXPECT_EQ(scaled.loss({0, 0, 0, 0}), first) << "the way to a point does not matter";
}

TEST(ScaledBlocks, RefusesWhatItCannotScale) {
  const auto model = tiny_model(2);
  expect_error<std::invalid_argument>([&] { ScaledBlocks(*model, two_bits(), {{1}}); },
                                      {"segment of 1 ids", "--segment-length"});
  Settings fixed = two_bits();
  fixed.grid = "fixed";
  ScaledBlocks scaled(*model, fixed, tiny_segments(1, 4));
  expect_error<std::invalid_argument>([&] { scaled.loss({0, 0}); }, {"0 variables", "'relative'"});
  expect_error<std::invalid_argument>([&] { scaled.loss({0}); }, {"1 multipliers for 2 blocks"});
}

TEST(LossSurface, MinimumAndSeparatePrediction) {
  std::vector<double> grid;
  for (int i = 0; i <= 16; ++i) grid.push_back(0.8 + 0.025 * i);
  // Along each axis through 1 the minimum is at 0.9; together at 0.95 (x = y, derivative zero).
  const auto coupled = [](double x, double y) {
    const double u = x - 1.0, v = y - 1.0;
    return u * u + v * v + 2.0 * u * v + 0.2 * (u + v);
  };
  const SurfaceMinimum m = minimum_of(loss_surface(coupled, grid), 1.0);
  EXPECT_NEAR(m.separate_x, 0.9, 1e-12);
  EXPECT_NEAR(m.separate_y, 0.9, 1e-12);
  EXPECT_NEAR(m.x + m.y, 1.9, 1e-9);
  EXPECT_NEAR(m.loss, -0.01, 1e-12);
  EXPECT_GT(m.separate_loss, m.loss + 0.009);
  EXPECT_NEAR(m.interaction, 2.0 * 0.2 * 0.2, 1e-12);
  EXPECT_NEAR(m.range, 0.4 * 0.4 + 0.2 * 0.4 + 0.01, 1e-12);
  EXPECT_NEAR(m.offset, std::hypot(m.x - 0.9, m.y - 0.9), 1e-12);

  const auto separable = [](double x, double y) {
    return std::pow(x - 0.9, 2) + std::abs(y - 1.1);
  };
  const SurfaceMinimum s = minimum_of(loss_surface(separable, grid), 1.0);
  EXPECT_NEAR(s.interaction, 0.0, 1e-12);
  EXPECT_EQ(s.offset, 0.0);
  EXPECT_NEAR(s.x, 0.9, 1e-12);
  EXPECT_NEAR(s.y, 1.1, 1e-12);
  expect_error<std::invalid_argument>(
      [&] {
        loss_surface(separable, {1.0, 0.9, 1.1});
      },
      {"rising values"});
}

TEST(OutlierStudy, FindsPlantedChannelsAndCfpScalesThem) {
  const auto model = tiny_model(3, 32);
  const auto segments = tiny_segments(6, 16);
  add_outlier_channels(*model, 2, 50.0, 3);
  const double before = perplexity(*model, segments).mean_nll();
  Linear& any = *model->block(1).linears().front().linear;
  std::vector<float> w = any.weight.value().to_vector<float>();
  w[5] = 40.0f;  // far outside
  any.weight.set_value(Tensor::from(w, any.weight.shape(), Dtype::f32));
  const OutlierStudy study = study_outliers(*model, segments);
  EXPECT_NE(study.activations.path.find("norm"), std::string::npos) << study.activations.path;
  EXPECT_EQ(study.activations.outliers, 2);
  EXPECT_GT(study.activations.strength(), 10.0);
  for (size_t c = 0; c < study.activations.before.size(); ++c) {
    const double m = study.activations.before[c], t = study.activations.threshold;
    if (m <= t) continue;
    // X / sqrt(m / t): the new maximum is sqrt(m t). (Truncated weights in front move it a little.)
    EXPECT_NEAR(study.activations.after[c], std::sqrt(m * t), 0.2 * std::sqrt(m * t));
  }
  EXPECT_NE(study.weight.path.find("layers.1."), std::string::npos) << study.weight.path;
  EXPECT_EQ(study.weight.before.front(), 40.0);
  EXPECT_LT(study.weight.threshold, 20.0);
  EXPECT_TRUE(std::isfinite(before));
}

}  // namespace
}  // namespace cbq::test_figures_numbers
