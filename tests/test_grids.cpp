// The contract of every registered grid scheme, learned zero points, and the clipped grid against
// its equations. A new grid is tested by existing: the names come from the registry.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/optim.h"
#include "kernels/ops.h"
#include "quant/grid_scheme.h"
#include "tensor/runtime/threads.h"
#include "tests/rounding_contract.h"
#include "tests/test_data.h"

namespace cbq::test::test_grids {
namespace {

using Doubles = std::vector<double>;

struct Layout {
  Granularity granularity;
  int64_t group;
  bool symmetric;
  ScaleSearch search;
};

class GridContract : public ::testing::TestWithParam<std::string> {
 protected:
  static std::vector<Layout> layouts() {
    return {{Granularity::per_channel, 0, false, ScaleSearch::min_max},
            {Granularity::per_channel, 0, false, ScaleSearch::squared_error},
            {Granularity::per_group, 8, false, ScaleSearch::squared_error},
            {Granularity::per_tensor, 0, false, ScaleSearch::squared_error},
            {Granularity::per_channel, 0, true, ScaleSearch::min_max},
            {Granularity::per_group, 8, true, ScaleSearch::squared_error}};
  }
  static WeightConfig config_of(const Layout& layout, int bits = 3) {
    WeightConfig config;
    config.bits = bits;
    config.granularity = layout.granularity;
    config.group_size = layout.group;
    config.symmetric = layout.symmetric;
    config.search = layout.search;
    return config;
  }
  /// The scheme, started for the weight, with its variables at the start.
  struct Started {
    std::unique_ptr<GridScheme> scheme;
    WeightGrid grid;
    std::vector<Tensor> variables;
    GridValues values() const { return scheme->values(variables); }
  };
  static Started start(const Tensor& w, const WeightConfig& config) {
    Started s{grid_schemes().make(GetParam()), weight_grid(w, config, "layer"), {}};
    for (const auto& [name, value] : s.scheme->start(w, s.grid, config)) {
      EXPECT_FALSE(name.empty());
      EXPECT_EQ(value.shape(), s.grid.scale.shape()) << name;
      EXPECT_EQ(value.dtype(), s.grid.scale.dtype()) << name;
      s.variables.push_back(value.clone());
    }
    return s;
  }
  static Tensor weight(Dtype dtype = Dtype::f64) {
    Tensor w = normal({7, 24}, 0.02, 1, dtype);
    // A group of zeros, and one whose weights have one sign.
    Doubles values = w.to_vector<double>();
    for (size_t j = 0; j < 8; ++j) {
      values[24 + j] = 0.0;
      values[48 + j] = std::abs(values[48 + j]);
    }
    return Tensor::from(values, w.shape(), dtype);
  }
};

TEST_P(GridContract, StartsAtTheGridOrCloseInside) {
  for (const Layout& layout : layouts()) {
    const Started s = start(weight(), config_of(layout));
    const auto scale = s.values().scale.to_vector<double>(),
               zero = s.values().zero_point.to_vector<double>();
    const auto scale0 = s.grid.scale.to_vector<double>(),
               zero0 = s.grid.zero_point.to_vector<double>();
    for (size_t i = 0; i < scale.size(); ++i) {
      EXPECT_LE(scale[i], scale0[i] * (1 + 1e-12));
      EXPECT_GE(scale[i], scale0[i] * 0.85);
      EXPECT_LE(std::abs(zero[i] - zero0[i]), s.scheme->moves_zero_point() ? 1.0 : 0.0);
    }
  }
}

TEST_P(GridContract, HoldsZeroAndKeepsScalesPositive) {
  for (const Layout& layout : layouts()) {
    for (const double size : {0.1, 3.0, 40.0}) {
      Started s = start(weight(), config_of(layout));
      for (size_t i = 0; i < s.variables.size(); ++i) {
        kernels::fill_normal(s.variables[i], 0.0, size, 3, i);
      }
      const GridValues now = s.values();
      for (const double scale : now.scale.to_vector<double>()) {
        EXPECT_GT(scale, 0.0);
        EXPECT_TRUE(std::isfinite(scale));
      }
      for (const double z : now.zero_point.to_vector<double>()) {
        EXPECT_EQ(z, std::nearbyint(z));
        EXPECT_TRUE(z >= 0.0 && z <= 7.0) << z;
      }
      if (s.scheme->moves_zero_point() && !layout.symmetric) continue;
      EXPECT_EQ(now.zero_point.to_vector<double>(), s.grid.zero_point.to_vector<double>());
    }
  }
}

TEST_P(GridContract, ScaleGradientsMatchCentralDifferences) {
  for (const Layout& layout : layouts()) {
    Started s = start(weight(), config_of(layout));
    for (size_t i = 0; i < s.variables.size(); ++i) {
      Tensor moved = s.variables[i].clone();
      kernels::fill_normal(moved, 0.0, 0.1 * s.grid.scale.to_vector<double>()[0], 3, i);
      s.variables[i] = kernels::add(s.variables[i], moved);
    }
    const GridValues now = s.values();
    const Tensor d = normal(now.scale.shape(), 1.0, 5, Dtype::f64);
    const Tensor none = Tensor::zeros(d.shape(), Dtype::f64);
    const auto found = s.scheme->gradients(s.variables, now, {d, none});
    ASSERT_EQ(found.size(), s.variables.size());
    const auto g = d.to_vector<double>();
    for (size_t v = 0; v < found.size(); ++v) {
      const auto dx = found[v].to_vector<double>();
      for (size_t i = 0; i < dx.size(); ++i) {
        const auto loss = [&](double step) {
          std::vector<Tensor> moved = s.variables;
          Doubles x = moved[v].to_vector<double>();
          x[i] += step;
          moved[v] = Tensor::from(x, d.shape());
          const auto scale = s.scheme->values(moved).scale.to_vector<double>();
          double sum = 0.0;
          for (size_t k = 0; k < scale.size(); ++k) sum += g[k] * scale[k];
          return sum;
        };
        const double want = (loss(1e-6) - loss(-1e-6)) / 2e-6;
        EXPECT_NEAR(dx[i], want, 1e-6 * (1 + std::abs(want))) << "variable " << v << ", " << i;
      }
    }
  }
}

TEST_P(GridContract, FollowsDoublePrecision) {
  for (const Layout& layout : layouts()) {
    const WeightConfig config = config_of(layout);
    const Started exact = start(weight(), config), single = start(weight(Dtype::f32), config);
    const auto want = exact.values().scale.to_vector<double>(),
               got = single.values().scale.to_vector<double>();
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-6 * want[i]);
    EXPECT_EQ(start(weight(Dtype::bf16), config).values().scale.dtype(), Dtype::f32);
  }
}

RoundingConfig rounding_of(const std::string& grid, bool zero_point,
                           const std::string& scheme = "signround") {
  RoundingConfig config;
  config.scheme = scheme;
  config.grid = grid;
  config.learn_zero_point = zero_point;
  return config;
}

TEST_P(GridContract, SavesRestoresAndFreezes) {
  const Tensor w = weight(Dtype::f32);
  for (const Layout& layout : layouts()) {
    for (const bool zero_point : {false, true}) {
      if (zero_point && layout.symmetric) continue;
      const WeightConfig config = config_of(layout);
      const RoundingConfig rounding = rounding_of(GetParam(), zero_point);
      WeightQuantizer q(w, config, rounding, "layer", 1, 2);
      q.set_hard(true);
      const auto weights = [&](const WeightQuantizer& of) {
        return of.fake_quant(Var(w)).value().to_vector<double>();
      };
      const auto before = weights(q);
      const auto saved = q.snapshot();
      uint64_t stream = 3;
      for (const LearnedGroup& group : q.groups()) {
        for (const Var& v : group.variables) {
          Tensor step(v.value().shape(), v.dtype());
          kernels::fill_normal(step, 0.0, group.rate == "zero_point" ? 2.0 : 0.4, 4, stream++);
          v.value().copy_from(kernels::add(v.value(), step));
        }
      }
      const auto moved = weights(q);
      EXPECT_NE(moved, before);
      WeightQuantizer other(w, config, rounding, "layer", 7, 8);
      other.set_hard(true);
      other.restore(q.snapshot());
      EXPECT_EQ(weights(other), moved);
      other.restore(saved);
      EXPECT_EQ(weights(other), before);
      const auto zero = q.grid().zero_point.to_vector<double>();
      q.harden(w);
      EXPECT_TRUE(q.groups().empty());
      EXPECT_EQ(weights(q), moved);
      EXPECT_EQ(q.grid().zero_point.to_vector<double>(), zero);
      // Codes lie on the grid that the packed weight holds.
      EXPECT_EQ(dequantize(q.packed(), Dtype::f32, Device::cpu()).to_vector<double>(), moved);
    }
  }
}

TEST_P(GridContract, LearningLowersTheOutputError) {
  const Tensor w = normal({12, 32}, 0.02, 1, Dtype::f32), x = normal({64, 32}, 1.0, 2, Dtype::f32);
  const Tensor target = kernels::matmul(x, kernels::Trans::no, w, kernels::Trans::yes);
  for (const bool zero_point : {false, true}) {
    WeightConfig config;
    config.bits = 2;
    config.search = ScaleSearch::min_max;
    WeightQuantizer q(w, config, rounding_of(GetParam(), zero_point, "nearest"), "layer", 1, 2);
    const auto error = [&] {
      NoGrad none;
      const Var y = ag::linear(Var(x), q.fake_quant(Var(w)), Var());
      double sum = 0.0;
      const auto got = y.value().to_vector<double>(), want = target.to_vector<double>();
      for (size_t i = 0; i < got.size(); ++i) sum += (got[i] - want[i]) * (got[i] - want[i]);
      return sum;
    };
    const double before = error();
    std::vector<ParameterGroup> groups;
    for (const LearnedGroup& group : q.groups()) {
      groups.push_back(
          {group.variables, {.rate = group.rate == "scale" && GetParam() == "raw" ? 1e-4 : 2e-2}});
    }
    if (groups.empty()) {
      EXPECT_EQ(GetParam(), "fixed");
      continue;
    }
    Adam adam(groups);
    double best = before;
    for (int step = 0; step < 200; ++step) {
      Tape tape;
      const Var y = ag::linear(Var(x), q.fake_quant(Var(w)), Var());
      tape.backward(ag::row_error(y, target, 1.0, kernels::L2Form::sum, 0.0));
      adam.step(cosine_annealing(step, 200));
      best = std::min(best, error());
    }
    if (GetParam() == "fixed")
      continue;  // nothing is clipped here, so no zero point has a gradient
    EXPECT_LT(best, 0.9 * before) << "zero point " << zero_point;
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, GridContract, ::testing::ValuesIn(grid_schemes().names()),
                         [](const auto& one) { return one.param; });

TEST(GridSchemes, AreKnownByName) {
  for (const char* name : {"clip", "fixed", "log", "raw", "relative"}) {
    EXPECT_TRUE(grid_schemes().has(name)) << name;
    EXPECT_EQ(grid_schemes().make(name)->name(), name);
  }
  expect_error<std::invalid_argument>([] { grid_schemes().make("exp"); }, {"exp", "log", "clip"});
}

// dL/dz of a rounding scheme: a weight inside the grid does not see z, one beyond an end moves with
// it. Plain loops over what forward() declares.
TEST(ZeroPoint, GradientOfEveryScalarScheme) {
  for (const std::string& name : rounding_schemes().names()) {
    const auto scheme = rounding_schemes().make(name);
    const RoundingMath* math = scheme->math();
    if (math == nullptr) continue;
    EXPECT_TRUE(scheme->gives_zero_point_gradient());
    for (const auto granularity :
         {Granularity::per_channel, Granularity::per_group, Granularity::per_tensor}) {
      RoundingPass pass = make_pass(*scheme, Parameterization::none, Dtype::f64, granularity, 5,
                                    granularity == Granularity::per_channel ? 1100 : 24);
      pass.hard = true;
      const Tensor dw = normal(pass.w.shape(), 1.0, 5, Dtype::f64);
      EXPECT_FALSE(scheme->backward(pass, dw, {}).zero_point.defined());
      pass.wants_zero_point = true;
      const auto found = scheme->backward(pass, dw, {}).zero_point.to_vector<double>();
      const auto g = dw.to_vector<double>(), w = pass.w.to_vector<double>(),
                 s = pass.scale.to_vector<double>(), z = pass.zero_point.to_vector<double>();
      Doubles want(s.size(), 0.0);
      int beyond = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        const size_t k = scale_index(pass, i);
        const double u = w[i] / s[k];
        const double q = math->hard(u, math->initial(u, pass.start)) + z[k];
        if (q >= 0.0 && q <= max_code(pass.bits)) continue;
        want[k] -= s[k] * g[i];
        ++beyond;
      }
      ASSERT_GT(beyond, 0);
      for (size_t k = 0; k < want.size(); ++k) EXPECT_NEAR(found[k], want[k], 1e-12) << name;
    }
  }
}

TEST(ZeroPoint, MovesByWholeCodesAndStaysInside) {
  const Tensor z = Tensor::from<double>({0, 1, 3, 2, 3, 0}, {6, 1});
  const Tensor x = Tensor::from<double>({-0.4, 0.6, 1.0, -0.49, 0.0, 0.0}, {6, 1});
  EXPECT_EQ(moved_zero_point(z, x, 2).to_vector<double>(), (Doubles{0, 2, 3, 2, 3, 0}));
  const Tensor d = Tensor::from<double>({1.0, 2.0, -3.0, 4.0, 5.0, -6.0}, {6, 1});
  // At an end, descent against the gradient may only lead back.
  EXPECT_EQ(moved_zero_point_gradient(z, x, 2, d).to_vector<double>(),
            (Doubles{0.0, 2.0, 0.0, 4.0, 5.0, -6.0}));
}

TEST(ZeroPoint, OfASymmetricGridOrAnUnfitSchemeIsRefused) {
  const Tensor w = normal({4, 16}, 0.02, 1, Dtype::f32);
  WeightConfig config;
  config.bits = 3;
  const auto make = [&](const RoundingConfig& rounding) {
    WeightQuantizer(w, config, rounding, "layer", 1, 2);
  };
  expect_error<std::invalid_argument>([&] { make(rounding_of("log", true, "test_centred")); },
                                      {"layer", "test_centred", "learn_zero_point"});
  expect_error<std::invalid_argument>([&] { make(rounding_of("clip", false, "test_centred")); },
                                      {"layer", "test_centred", "grid 'clip'"});
  config.symmetric = true;
  expect_error<std::invalid_argument>([&] { make(rounding_of("log", true)); },
                                      {"layer", "symmetric", "zero point"});
}

// OmniQuant's learnable weight clipping by its equations, with zero kept inside the range:
// high = sigmoid(u) max(W, 0), low = sigmoid(l) min(W, 0), s = (high - low) / (2^b - 1),
// z = round(-low / s), and the gradient straight through that rounding.
TEST(ClippedGrid, FollowsItsEquations) {
  constexpr size_t rows = 5, columns = 16;
  const Tensor w = normal({rows, columns}, 0.02, 1, Dtype::f64);
  WeightConfig config;
  config.bits = 3;
  config.search = ScaleSearch::min_max;
  const auto scheme = grid_schemes().make("clip");
  const auto starts = scheme->start(w, weight_grid(w, config, "layer"), config);
  ASSERT_EQ(starts.size(), 2u);
  const Tensor upper = normal({rows, 1}, 1.0, 2, Dtype::f64),
               lower = normal({rows, 1}, 1.0, 3, Dtype::f64);
  const GridValues now = scheme->values({upper, lower});
  const Tensor ds = normal({rows, 1}, 1.0, 4, Dtype::f64),
               dz = normal({rows, 1}, 1.0, 5, Dtype::f64);
  const auto d = scheme->gradients({upper, lower}, now, {ds, dz});
  const auto values = w.to_vector<double>();
  const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  for (size_t r = 0; r < rows; ++r) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(r * columns);
    const double most = std::max(0.0, *std::max_element(begin, begin + columns));
    const double least = std::min(0.0, *std::min_element(begin, begin + columns));
    const double u = upper.to_vector<double>()[r], l = lower.to_vector<double>()[r];
    const auto scale = [&](double a, double b) {
      return (sigmoid(a) * most - sigmoid(b) * least) / 7.0;
    };
    // Before rounding, which the gradient passes.
    const auto zero = [&](double a, double b) { return -sigmoid(b) * least / scale(a, b); };
    EXPECT_NEAR(now.scale.to_vector<double>()[r], scale(u, l), 1e-15);
    EXPECT_EQ(now.zero_point.to_vector<double>()[r], std::nearbyint(zero(u, l)));
    const auto loss = [&](double a, double b) {
      return ds.to_vector<double>()[r] * scale(a, b) + dz.to_vector<double>()[r] * zero(a, b);
    };
    constexpr double e = 1e-6;
    EXPECT_NEAR(d[0].to_vector<double>()[r], (loss(u + e, l) - loss(u - e, l)) / (2 * e), 1e-7);
    EXPECT_NEAR(d[1].to_vector<double>()[r], (loss(u, l + e) - loss(u, l - e)) / (2 * e), 1e-7);
  }
}

// With the range of the weights OmniQuant's start, sigmoid(4) of it; with a searched grid that
// grid, unless it is wider.
TEST(ClippedGrid, StartsWhereOmniQuantDoesOrAtTheSearchedGrid) {
  const Tensor w = normal({40, 64}, 0.02, 1, Dtype::f64);
  WeightConfig config;
  config.bits = 2;
  for (const bool symmetric : {false, true}) {
    config.symmetric = symmetric;
    config.search = ScaleSearch::squared_error;
    const WeightGrid grid = weight_grid(w, config, "layer");
    auto scheme = grid_schemes().make("clip");
    std::vector<Tensor> variables;
    for (auto& [name, value] : scheme->start(w, grid, config)) variables.push_back(value);
    const GridValues now = scheme->values(variables);
    const auto got = now.scale.to_vector<double>(), want = grid.scale.to_vector<double>();
    int equal = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      equal += std::abs(got[i] - want[i]) < 1e-9 * want[i] ? 1 : 0;
    }
    EXPECT_GT(equal, 30) << "a search at 2 bits clips nearly every row";
    config.search = ScaleSearch::min_max;
    const WeightGrid widest = weight_grid(w, config, "layer");
    for (const auto& [name, value] : scheme->start(w, widest, config)) {
      for (const double x : value.to_vector<double>()) EXPECT_EQ(x, 4.0) << name;
    }
  }
}

// A solver's grid is not that of the range, even where the weight's own start would be.
TEST(ClippedGrid, GoesOnFromASolversGrid) {
  const Tensor w = normal({40, 64}, 0.02, 1, Dtype::f32);
  WeightConfig config;
  config.bits = 2;
  config.search = ScaleSearch::squared_error;
  const WeightGrid solved = weight_grid(w, config, "layer");
  config.search = ScaleSearch::min_max;
  WeightQuantizer q(w, config, rounding_of("clip", false), "layer", 1, 2);
  q.start_from(w, solved);
  const auto got = q.grid().scale.to_vector<double>(), want = solved.scale.to_vector<double>();
  int equal = 0;
  for (size_t i = 0; i < got.size(); ++i) equal += std::abs(got[i] - want[i]) < 1e-5 * want[i];
  EXPECT_GT(equal, 30) << "a search at 2 bits clips nearly every row";
}

}  // namespace
}  // namespace cbq::test::test_grids
