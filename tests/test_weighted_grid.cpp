// Grids weighted by a layer's inputs, against exhaustive search, and the solver that uses them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/ops.h"
#include "quant/solvers/solver.h"
#include "quant/solvers/weighted_grid.h"
#include "tests/test_data.h"

namespace cbq::test_weighted_grid {
namespace {

using Doubles = std::vector<double>;

Tensor random_weight(int64_t out, int64_t in, uint64_t stream, Dtype dtype = Dtype::f64) {
  Tensor w({out, in}, dtype);
  kernels::fill_normal(w, 0.0, 0.02, 5, stream);
  return w;
}

/// A few inputs are large, as behind a norm with outlier channels; input 3 never occurs.
Doubles uneven(size_t in) {
  Doubles h(in, 1.0);
  for (size_t j = 0; j < in; j += 7) h[j] = 400.0;
  h[3] = 0.0;
  return h;
}

/// sum_j h_j (Q(w)_j - w_j)^2 of every group, by plain loops.
Doubles errors_of(const Tensor& w, const Doubles& h, const Doubles& scale, const Doubles& zero,
                  int bits) {
  const auto values = w.to_vector<double>();
  const size_t in = h.size(), n = values.size() / scale.size();
  const double largest = std::pow(2.0, bits) - 1.0;
  Doubles errors(scale.size(), 0.0);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t g = i / n;
    const double q =
        std::min(largest, std::max(0.0, std::nearbyint(values[i] / scale[g]) + zero[g]));
    const double d = scale[g] * (q - zero[g]) - values[i];
    errors[g] += h[i % in] * d * d;
  }
  return errors;
}
Doubles errors_of(const Tensor& w, const Doubles& h, const WeightGrid& grid) {
  return errors_of(w, h, grid.scale.to_vector<double>(), grid.zero_point.to_vector<double>(),
                   grid.bits);
}

TEST(WeightedGrid, NearlyReachesExhaustiveSearch) {
  constexpr int64_t rows = 12, in = 24;
  const Tensor w = random_weight(rows, in, 1);
  const Doubles h = uneven(in);
  for (const int bits : {2, 3}) {
    WeightConfig config;
    config.bits = bits;
    const Doubles found = errors_of(w, h, weighted_grid(w, h, config, "layer"));
    Doubles best(rows, std::numeric_limits<double>::infinity());
    for (int z = 0; z < 1 << bits; ++z) {
      for (int step = 1; step <= 4000; ++step) {
        const Doubles scale(rows, 0.08 * step / 4000.0), zero(rows, z);
        const Doubles errors = errors_of(w, h, scale, zero, bits);
        for (size_t r = 0; r < best.size(); ++r) best[r] = std::min(best[r], errors[r]);
      }
    }
    double found_sum = 0.0, best_sum = 0.0;
    for (size_t r = 0; r < best.size(); ++r) {
      EXPECT_LT(found[r], 2.5 * best[r]) << "row " << r << ", bits " << bits;
      found_sum += found[r];
      best_sum += best[r];
    }
    EXPECT_LT(found_sum, 1.25 * best_sum) << "bits " << bits;
  }
}

TEST(WeightedGrid, IsNeverWorseThanTheGridThatKnowsNoInputs) {
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16}) {
    const Tensor w = random_weight(9, 32, 2, dtype);
    for (const Doubles& h : {uneven(32), Doubles(32, 1.0)}) {
      for (const auto granularity :
           {Granularity::per_channel, Granularity::per_group, Granularity::per_tensor}) {
        for (const bool symmetric : {false, true}) {
          WeightConfig config;
          config.bits = 3;
          config.granularity = granularity;
          config.group_size = granularity == Granularity::per_group ? 8 : 0;
          config.symmetric = symmetric;
          const WeightGrid plain = weight_grid(w, config, "layer"),
                           grid = weighted_grid(w, h, config, "layer");
          EXPECT_EQ(grid.scale.shape(), plain.scale.shape());
          EXPECT_EQ(grid.scale.dtype(), plain.scale.dtype());
          const Doubles found = errors_of(w, h, grid), before = errors_of(w, h, plain);
          double gain = 1.0;
          for (size_t g = 0; g < found.size(); ++g) {
            EXPECT_LE(found[g], before[g] * (1 + 1e-5));
            gain = std::min(gain, found[g] / before[g]);
          }
          if (h[0] > 1.0) {
            EXPECT_LT(gain, 0.999) << "uneven inputs move some group";
          }
          for (const double z : grid.zero_point.to_vector<double>()) {
            EXPECT_TRUE(z >= 0.0 && z <= 7.0 && z == std::nearbyint(z)) << z;
            if (symmetric) {
              EXPECT_EQ(z, 4.0);
            }
          }
        }
      }
    }
  }
}

TEST(WeightedGrid, GroupsThatNoInputReachesKeepTheirGrid) {
  const Tensor w = random_weight(4, 16, 3);
  WeightConfig config;
  config.bits = 2;
  config.granularity = Granularity::per_group;
  config.group_size = 8;
  Doubles h(16, 2.0);
  std::fill(h.begin(), h.begin() + 8, 0.0);
  const auto plain = weight_grid(w, config, "layer").scale.to_vector<double>();
  const auto found = weighted_grid(w, h, config, "layer").scale.to_vector<double>();
  for (size_t i = 0; i < plain.size(); i += 2) EXPECT_EQ(found[i], plain[i]);
  using Invalid = std::invalid_argument;
  expect_error<Invalid>([&] { weighted_grid(w, Doubles(8, 1.0), config, "layer"); },
                        {"layer", "8", "16"});
  h[2] = std::numeric_limits<double>::quiet_NaN();
  expect_error<Invalid>([&] { weighted_grid(w, h, config, "layer"); }, {"layer", "input"});
}

TEST(WeightedSearch, LowersTheOutputErrorOfUnevenInputs) {
  constexpr int64_t in = 48;
  Tensor x({200, in}, Dtype::f64);
  kernels::fill_normal(x, 0.0, 1.0, 5, 9);
  for (int64_t i = 0; i < x.count(); ++i) x.data<double>()[i] *= i % in % 7 == 0 ? 20.0 : 1.0;
  LayerProblem problem;
  problem.layer = "layer";
  problem.weight = random_weight(16, in, 4, Dtype::f32);
  problem.hessian = kernels::matmul(x, kernels::Trans::yes, x, kernels::Trans::no);
  problem.config.bits = 3;
  const LayerSolution solution = parse_solver("weighted")->solve(problem);
  EXPECT_EQ(solution.weight.to_vector<float>(), problem.weight.to_vector<float>());
  EXPECT_LT(solution.error, 0.7 * solution.nearest_error);
  EXPECT_NEAR(solution.error,
              output_error(problem.weight, nearest(problem.weight, solution.grid), problem.hessian),
              1e-12 * solution.error);
}

}  // namespace
}  // namespace cbq::test_weighted_grid
