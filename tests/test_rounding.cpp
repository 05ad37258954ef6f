// The contract of every registered rounding scheme, dense and low rank. A new scheme is tested by
// existing: the names come from the registry.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "autograd/functions.h"
#include "autograd/optim.h"
#include "kernels/ops.h"
#include "quant/weight_quantizer.h"
#include "tests/test_data.h"

namespace cbq {
namespace {

Tensor normal(Shape shape, double deviation, uint64_t stream, Dtype dtype) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, 0.0, deviation, 11, stream);
  return t;
}

/// A weight with its grid and small random rounding variables.
RoundingPass make_pass(const RoundingScheme& scheme, Parameterization parameterization, Dtype dtype,
                       Granularity granularity = Granularity::per_channel, int64_t out = 7,
                       int64_t in = 24, int64_t group = 8) {
  RoundingPass pass;
  pass.w = normal({out, in}, 0.02, 1, dtype);
  WeightConfig config;
  config.bits = pass.bits = 3;
  config.search = ScaleSearch::min_max;
  config.granularity = granularity;
  config.group_size = group;
  const WeightGrid grid = weight_grid(pass.w, config, "layer");
  // A smaller scale, so that both ends of the grid clip.
  pass.scale = kernels::scale(grid.scale, 0.7);
  pass.zero_point = grid.zero_point;
  pass.group = grid.group;
  pass.start = scheme.default_start();
  const Dtype variables = grid.scale.dtype();
  const double unit = scheme.math() && scheme.math()->v_in_weight_units ? 0.01 : 1.0;
  if (parameterization == Parameterization::dense) {
    pass.dense = normal({out, in}, 0.1 * unit, 2, variables);
  } else if (parameterization == Parameterization::low_rank) {
    pass.a1 = normal({out, 3}, 0.4, 3, variables);
    pass.a2 = normal({3, in}, 0.15 * unit, 4, variables);
  }
  return pass;
}

/// p of a pass as doubles [out, in].
std::vector<double> variables_of(const RoundingPass& pass) {
  const int64_t out = pass.w.size(0), in = pass.w.size(1);
  if (pass.dense.defined()) return pass.dense.to_vector<double>();
  std::vector<double> p(static_cast<size_t>(out * in), 0.0);
  if (!pass.a1.defined()) return p;
  const auto a1 = pass.a1.to_vector<double>(), a2 = pass.a2.to_vector<double>();
  const int64_t rank = pass.a1.size(1);
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      for (int64_t k = 0; k < rank; ++k) {
        p[static_cast<size_t>(i * in + j)] +=
            a1[static_cast<size_t>(i * rank + k)] * a2[static_cast<size_t>(k * in + j)];
      }
    }
  }
  return p;
}

/// Index of the scale of weight i.
size_t scale_index(const RoundingPass& pass, size_t i) {
  if (pass.scale.count() == 1) return 0;
  const auto in = static_cast<size_t>(pass.w.size(1)), group = static_cast<size_t>(pass.group);
  return i / in * (in / group) + i % in / group;
}

/// One weight at the point (s, p) where its derivatives are asked for.
struct Point {
  const RoundingMath* math;
  bool hard;
  double w, z, largest, u0, v_start, raw0, v0, r0;
  bool inside;

  Point(const RoundingPass& pass, const RoundingMath* functions, size_t i, double s, double p)
      : math(functions), hard(pass.hard), largest(max_code(pass.bits)) {
    w = pass.w.data<double>()[i];
    z = pass.zero_point.data<double>()[scale_index(pass, i)];
    u0 = w / s;
    v_start = math->initial(u0, pass.start);
    raw0 = raw(s, p);
    v0 = std::clamp(raw0, math->v_min, math->v_max);
    r0 = (hard ? math->hard : math->soft)(u0, v0);
    inside = r0 + z >= 0.0 && r0 + z <= largest;
  }
  /// v before the bounds.
  double raw(double s, double p) const { return v_start + (math->v_in_weight_units ? p / s : p); }
  double value(double s) const { return s * (std::clamp(r0 + z, 0.0, largest) - z); }
  /// W^ as a function of (s, p) in which what is declared straight-through, and only that, is
  /// linear: r in u, in v where the scheme says so, and the bounds of v. The side of a clip end
  /// does not change.
  double surrogate(double s, double p) const {
    if (!inside) return value(s);
    const double dv = raw(s, p) - raw0;
    const double through_v =
        hard || math->straight_through_v ? r0 + math->d_dv(u0, v0) * dv : math->soft(u0, v0 + dv);
    return s * (through_v + math->d_du(u0, v0) * (w / s - u0));
  }
  /// The gradient d with respect to v as backward should give it: none that leads out of the
  /// bounds.
  double bounded(double d) const {
    return (raw0 >= math->v_max && d < 0) || (raw0 <= math->v_min && d > 0) ? 0.0 : d;
  }
};

struct Case {
  std::string scheme;
  Parameterization parameterization;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& name : rounding_schemes().names()) {
    for (auto p : {Parameterization::none, Parameterization::dense, Parameterization::low_rank}) {
      cases.push_back({name, p});
    }
  }
  return cases;
}

class RoundingContract : public ::testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<RoundingScheme> scheme_ = rounding_schemes().make(GetParam().scheme);
  Parameterization parameterization_ = GetParam().parameterization;
  struct Layout {
    Granularity granularity;
    int64_t out, in, group;
  };
  /// Every granularity; several chunks of rows; rows and groups of several parts.
  static std::vector<Layout> layouts() {
    return {{Granularity::per_tensor, 7, 24, 0},    {Granularity::per_channel, 7, 24, 0},
            {Granularity::per_group, 7, 24, 8},     {Granularity::per_channel, 50, 24, 0},
            {Granularity::per_channel, 2, 1100, 0}, {Granularity::per_group, 2, 1100, 550},
            {Granularity::per_tensor, 2, 1100, 0}};
  }
  RoundingPass pass(const Layout& l) const {
    return make_pass(*scheme_, parameterization_, Dtype::f64, l.granularity, l.out, l.in, l.group);
  }
  std::vector<bool> phases() const {
    return scheme_->relaxes() ? std::vector<bool>{false, true} : std::vector<bool>{true};
  }
};

TEST_P(RoundingContract, DescribesItself) {
  EXPECT_EQ(scheme_->name(), GetParam().scheme);
  EXPECT_GT(scheme_->help().size(), 10u);
  EXPECT_TRUE(scheme_->supports(scheme_->default_start()));
}

// Ties, both clip ends and zero among the weights; the scale is a power of two, so that w/s is
// exact.
TEST_P(RoundingContract, HardRoundingIsOnTheGrid) {
  RoundingPass pass;
  pass.w = Tensor::from<float>({-9, -1.25, -0.75, -0.25, 0, 0.25, 0.5, 0.75, 1.25, 9}, {1, 10});
  pass.scale = Tensor::from<float>({0.5}, {1, 1});
  pass.zero_point = Tensor::from<float>({3}, {1, 1});
  pass.bits = 3;
  pass.group = 10;
  pass.hard = true;
  for (Start start : {Start::fraction, Start::nearest, Start::zero}) {
    if (!scheme_->supports(start)) continue;
    pass.start = start;
    const std::vector<float> y = scheme_->forward(pass).to_vector<float>();
    const std::vector<int> codes = scheme_->codes(pass).to_vector<int>();
    const std::vector<float> w = pass.w.to_vector<float>();
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(y[i], 0.5f * static_cast<float>(codes[i] - 3)) << "weight " << w[i];
      EXPECT_GE(codes[i], 0);
      EXPECT_LE(codes[i], 7);
      const double u = std::clamp(w[i] / 0.5, -3.0, 4.0);
      EXPECT_LE(std::abs(codes[i] - 3 - u), 1.0) << "weight " << w[i] << " leaves its neighbours";
    }
    EXPECT_EQ(codes.front(), 0);
    EXPECT_EQ(codes.back(), 7);
  }
}

TEST_P(RoundingContract, StartsWhereItSays) {
  for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
    RoundingPass pass = make_pass(*scheme_, Parameterization::none, dtype);
    // Ties as well.
    const auto s = pass.scale.to_vector<double>();
    if (dtype == Dtype::f64) pass.w.data<double>()[3] = 1.5 * s[0];
    if (dtype == Dtype::f64) pass.w.data<double>()[4] = 0.5 * s[0];
    const auto w = pass.w.to_vector<double>();
    const auto z = pass.zero_point.to_vector<double>();
    const auto nearest = rounding_schemes().make("nearest");
    for (Start start : {Start::fraction, Start::nearest, Start::zero}) {
      if (!scheme_->supports(start)) continue;
      pass.start = start;
      for (bool hard : phases()) {
        pass.hard = hard;
        const auto y = scheme_->forward(pass).to_vector<double>();
        if (start == Start::nearest) {
          EXPECT_EQ(y, nearest->forward(pass).to_vector<double>()) << "hard " << hard;
        } else if (start == Start::fraction && !hard) {
          for (size_t i = 0; i < y.size(); ++i) {
            const size_t g = scale_index(pass, i);
            const double clipped =
                std::clamp(w[i], -z[g] * s[g], (max_code(pass.bits) - z[g]) * s[g]);
            EXPECT_NEAR(y[i], clipped, 1e-5 * s[g]) << "weight " << i;
          }
        } else if (start == Start::zero) {
          EXPECT_EQ(scheme_->math()->initial(0.37, start), 0.0);
        }
      }
    }
  }
}

TEST_P(RoundingContract, ForwardIsTheDeclaredMath) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  for (const Layout& layout : layouts()) {
    RoundingPass pass = this->pass(layout);
    const auto s = pass.scale.to_vector<double>(), p = variables_of(pass);
    for (bool hard : phases()) {
      pass.hard = hard;
      const auto y = scheme_->forward(pass).to_vector<double>();
      for (size_t i = 0; i < y.size(); ++i) {
        const double si = s[scale_index(pass, i)];
        const Point at(pass, math, i, si, p[i]);
        EXPECT_NEAR(y[i], at.value(si), 1e-12) << "weight " << i << ", hard " << hard;
      }
    }
  }
}

/// d/dx of sum_i g_i surrogate_i, by central differences, where `at(step)` gives the sum.
template <class F>
double difference(const F& at, double step) {
  return (at(step) - at(-step)) / (2 * step);
}

TEST_P(RoundingContract, GradientsMatchCentralDifferences) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  for (const Layout& layout : layouts()) {
    for (bool hard : phases()) {
      RoundingPass pass = this->pass(layout);
      pass.hard = hard;
      const Tensor dw = normal(pass.w.shape(), 1.0, 5, Dtype::f64);
      const auto g = dw.to_vector<double>(), p = variables_of(pass);
      const auto s = pass.scale.to_vector<double>();
      std::vector<Point> points;
      int inside = 0;
      for (size_t i = 0; i < g.size(); ++i) {
        points.emplace_back(pass, math, i, s[scale_index(pass, i)], p[i]);
        inside += points.back().inside ? 1 : 0;
      }
      ASSERT_GT(inside, 0);
      ASSERT_LT(inside, static_cast<int>(g.size())) << "the case does not reach the clip ends";
      const RoundingGradients found = scheme_->backward(pass, dw, {});

      const auto d_scale = found.scale.to_vector<double>();
      for (size_t k = 0; k < s.size(); ++k) {
        const auto moved = [&](double step) {
          double total = 0.0;
          for (size_t i = 0; i < g.size(); ++i) {
            if (scale_index(pass, i) == k) total += g[i] * points[i].surrogate(s[k] + step, p[i]);
          }
          return total;
        };
        EXPECT_NEAR(d_scale[k], difference(moved, 1e-7), 2e-5 * (1 + std::abs(d_scale[k])))
            << "scale " << k << ", hard " << hard;
      }

      // dL/dp of every weight; for low rank the chain through p = A1 A2 is a matrix product.
      std::vector<double> dp(g.size());
      for (size_t i = 0; i < g.size(); ++i) {
        const double si = s[scale_index(pass, i)];
        const auto moved = [&](double step) { return g[i] * points[i].surrogate(si, p[i] + step); };
        dp[i] = points[i].bounded(difference(moved, 1e-6 * (math->v_in_weight_units ? 0.01 : 1.0)));
      }
      if (pass.dense.defined()) {
        const auto dense = found.dense.to_vector<double>();
        for (size_t i = 0; i < dp.size(); ++i) EXPECT_NEAR(dense[i], dp[i], 1e-7) << "weight " << i;
      }
      if (pass.a1.defined()) {
        const Tensor d = Tensor::from(dp, pass.w.shape());
        using kernels::Trans;
        const auto expected_a1 =
            kernels::matmul(d, Trans::no, pass.a2, Trans::yes).to_vector<double>();
        const auto expected_a2 =
            kernels::matmul(pass.a1, Trans::yes, d, Trans::no).to_vector<double>();
        const auto a1 = found.a1.to_vector<double>(), a2 = found.a2.to_vector<double>();
        ASSERT_EQ(a1.size(), expected_a1.size());
        ASSERT_EQ(a2.size(), expected_a2.size());
        for (size_t i = 0; i < a1.size(); ++i) EXPECT_NEAR(a1[i], expected_a1[i], 1e-6) << i;
        for (size_t i = 0; i < a2.size(); ++i) EXPECT_NEAR(a2[i], expected_a2[i], 1e-6) << i;
      }
    }
  }
}

TEST_P(RoundingContract, NoGradientLeadsOutOfTheBounds) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr || !std::isfinite(math->v_max)) return;  // no bounds to keep to
  RoundingPass pass = make_pass(*scheme_, Parameterization::dense, Dtype::f64);
  pass.start = Start::zero;
  pass.scale = Tensor::from(std::vector<double>(7, 1.0), {7, 1});  // nothing clips
  pass.zero_point = Tensor::from(std::vector<double>(7, 3.0), {7, 1});
  pass.hard = true;
  for (const double sign : {1.0, -1.0}) {
    // Beyond the upper (lower) bound: descent on a negative (positive) gradient would lead on.
    kernels::fill(pass.dense, sign > 0 ? math->v_max + 0.25 : math->v_min - 0.25);
    Tensor dw(pass.w.shape(), Dtype::f64);
    kernels::fill(dw, -sign);
    for (double d : scheme_->backward(pass, dw, {}).dense.to_vector<double>()) EXPECT_EQ(d, 0.0);
    kernels::fill(dw, sign);
    for (double d : scheme_->backward(pass, dw, {}).dense.to_vector<double>()) {
      EXPECT_GT(sign * d, 0.0);
    }
  }
}

TEST_P(RoundingContract, RegularizerAndItsGradient) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  RoundingPass pass = make_pass(*scheme_, Parameterization::dense, Dtype::f64);
  const RoundingRegularizer regularizer{0.25, 3.0};
  const Tensor dw = Tensor::zeros(pass.w.shape(), Dtype::f64);
  const auto gradient = scheme_->backward(pass, dw, regularizer).dense.to_vector<double>();
  if (!scheme_->relaxes()) {
    EXPECT_EQ(scheme_->regularizer(pass, regularizer), 0.0);
    for (double d : gradient) EXPECT_EQ(d, 0.0);
    return;
  }
  const auto s = pass.scale.to_vector<double>(), p = variables_of(pass);
  double total = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    const Point at(pass, math, i, s[scale_index(pass, i)], p[i]);
    const auto term = [&](double step) {
      const double v = at.raw(s[scale_index(pass, i)], p[i] + step);
      const double h = math->relaxed(std::clamp(v, math->v_min, math->v_max));
      return 0.25 * (1.0 - std::pow(std::abs(2 * h - 1), 3.0));
    };
    total += term(0.0);
    EXPECT_NEAR(gradient[i], difference(term, 1e-6), 1e-7) << "weight " << i;
  }
  EXPECT_NEAR(scheme_->regularizer(pass, regularizer), total, 1e-9);
}

TEST_P(RoundingContract, LowerPrecisionFollowsDouble) {
  const RoundingPass exact = make_pass(*scheme_, parameterization_, Dtype::f64);
  const auto to = [](const Tensor& t, Dtype dtype) {
    return t.defined() ? kernels::cast(t, dtype) : Tensor();
  };
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (bool hard : phases()) {
      RoundingPass low = exact;
      low.hard = hard;
      low.w = to(exact.w, dtype);
      for (Tensor* t : {&low.scale, &low.zero_point, &low.dense, &low.a1, &low.a2}) {
        *t = to(*t, Dtype::f32);
      }
      RoundingPass high = exact;  // the same numbers as `low`
      high.hard = hard;
      high.w = to(low.w, Dtype::f64);
      for (Tensor* t : {&high.scale, &high.zero_point, &high.dense, &high.a1, &high.a2}) {
        *t = to(to(*t, Dtype::f32), Dtype::f64);
      }
      const double tolerance = dtype == Dtype::bf16 ? 4e-3 : 1e-6;  // relative: half a last place
      const auto a = scheme_->forward(low).to_vector<double>();
      const auto b = scheme_->forward(high).to_vector<double>();
      for (size_t i = 0; i < a.size(); ++i)
        EXPECT_NEAR(a[i], b[i], tolerance * (std::abs(b[i]) + 0.01));
      const Tensor dw = normal(exact.w.shape(), 1.0, 6, dtype);
      const auto da = scheme_->backward(low, dw, {}).scale.to_vector<double>();
      const auto db = scheme_->backward(high, to(dw, Dtype::f64), {}).scale.to_vector<double>();
      for (size_t i = 0; i < da.size(); ++i)
        EXPECT_NEAR(da[i], db[i], 1e-4 * (1 + std::abs(db[i])));
    }
  }
}

// Wide enough for several parts and chunks, and for threads to share the work.
TEST_P(RoundingContract, ResultsDoNotDependOnThreads) {
  const RoundingPass wide =
      make_pass(*scheme_, parameterization_, Dtype::f32, Granularity::per_channel, 130, 1100);
  const Tensor dw = normal(wide.w.shape(), 1.0, 7, Dtype::f32);
  std::vector<std::vector<float>> results[2];
  const int threads = omp_get_max_threads();
  for (int run = 0; run < 2; ++run) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    const RoundingGradients g = scheme_->backward(wide, dw, {0.1, 4.0});
    for (const Tensor& t : {scheme_->forward(wide), g.scale, g.dense, g.a1, g.a2}) {
      if (t.defined()) results[run].push_back(t.to_vector<float>());
    }
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(results[0], results[1]);
}

/// ||X (W^ - W)^T||^2 of the hard weights.
double output_error(const WeightQuantizer& quantizer, const Tensor& x, const Var& w) {
  using kernels::Trans;
  const NoGrad off;
  const Tensor d = kernels::sub(quantizer.fake_quant(w).value(), w.value());
  return kernels::sum_of_squares(kernels::matmul(x, Trans::no, d, Trans::yes));
}

// A layer whose outputs are reconstructed for 200 steps must not end worse than round-to-nearest.
TEST_P(RoundingContract, LearnsAToyLayer) {
  const Var w(normal({16, 32}, 0.02, 8, Dtype::f32));
  // Inputs of a real layer are correlated: eight directions and a little noise.
  const Tensor x =
      kernels::add(kernels::matmul(normal({64, 8}, 1.0, 9, Dtype::f32), kernels::Trans::no,
                                   normal({8, 32}, 0.5, 10, Dtype::f32), kernels::Trans::no),
                   normal({64, 32}, 0.1, 12, Dtype::f32));
  WeightConfig config;
  config.bits = 2;
  RoundingConfig rounding;
  rounding.scheme = GetParam().scheme;
  rounding.parameterization = name_of(parameterization_);
  if (scheme_->default_parameterization() == Parameterization::none &&
      parameterization_ != Parameterization::none) {
    EXPECT_THROW(WeightQuantizer(w.value(), config, rounding, "layer", 1, 2),
                 std::invalid_argument);
    return;
  }
  WeightQuantizer quantizer(w.value(), config, rounding, "layer", 1, 2);
  const bool learns = !quantizer.rounding_variables().empty();
  RoundingConfig nearest_config;
  const WeightQuantizer nearest(w.value(), config, nearest_config, "layer", 1, 2);
  const Tensor target = kernels::matmul(x, kernels::Trans::no, w.value(), kernels::Trans::yes);
  quantizer.set_hard(true);
  std::vector<ParameterGroup> groups(2);
  groups[0].variables = quantizer.scale_variables();
  groups[0].settings.rate = 1e-3;
  groups[1].variables = quantizer.rounding_variables();
  groups[1].settings.rate = 0.02 * quantizer.rounding_unit();
  Adam adam(groups);
  double reached = output_error(quantizer, x, w);
  auto best = quantizer.snapshot();
  for (int step = 0; step < 200; ++step) {
    Tape tape;
    const Var y = ag::linear(Var(x), quantizer.fake_quant(w), Var());
    tape.backward(ag::row_error(y, target, 1.0, false, 0.0));
    adam.step(cosine_annealing(step, 200));
    if (const double error = output_error(quantizer, x, w); error < reached) {
      reached = error;
      best = quantizer.snapshot();
    }
  }
  quantizer.restore(best);
  const double plain = output_error(nearest, x, w);
  // Learned rounding must win clearly; learned scales alone must not lose.
  EXPECT_LT(reached, (learns ? 0.6 : 1.0) * plain);
  quantizer.harden(w.value());
  EXPECT_EQ(output_error(quantizer, x, w), reached);
}

INSTANTIATE_TEST_SUITE_P(Rounding, RoundingContract, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) {
                           return test.param.scheme + "_" + name_of(test.param.parameterization);
                         });

TEST(RoundingSchemes, BuiltInsAreRegistered) {
  for (const char* name : {"adaround", "direct", "lora_rounding", "nearest", "signround"}) {
    EXPECT_TRUE(rounding_schemes().has(name)) << name;
  }
  expect_error<std::invalid_argument>([] { rounding_schemes().make("adarund"); },
                                      {"rounding scheme 'adarund'", "adaround", "signround"});
}

// The rectified sigmoid against its definition, which the contract takes from the scheme itself.
TEST(RoundingSchemes, AdaRoundIsTheRectifiedSigmoid) {
  const auto scheme = rounding_schemes().make("adaround");
  const RoundingMath& math = *scheme->math();
  for (double v = -4.0; v <= 4.0; v += 0.37) {
    const double h = std::clamp(1.2 / (1.0 + std::exp(-v)) - 0.1, 0.0, 1.0);
    EXPECT_NEAR(math.soft(2.3, v), 2.0 + h, 1e-14);
    EXPECT_EQ(math.hard(-2.3, v), -3.0 + (h >= 0.5 ? 1.0 : 0.0));
  }
  for (double f : {0.0, 0.1, 0.5, 0.999}) {
    EXPECT_NEAR(math.soft(-1.0 + f, math.initial(-1.0 + f, Start::fraction)), -1.0 + f, 1e-14);
  }
  // From the nearest start a weight can still be moved.
  EXPECT_GT(math.d_dv(0.2, math.initial(0.2, Start::nearest)), 0.05);
  EXPECT_GT(math.d_dv(0.8, math.initial(0.8, Start::nearest)), 0.05);
}

TEST(RoundingSchemes, SignRoundMovesByHalfAStepAtMost) {
  const auto scheme = rounding_schemes().make("signround");
  RoundingPass pass = make_pass(*scheme, Parameterization::dense, Dtype::f64);
  kernels::fill(pass.dense, 40.0);
  pass.hard = true;
  const auto up = scheme->codes(pass).to_vector<int>();
  kernels::fill(pass.dense, 0.5);
  EXPECT_EQ(scheme->codes(pass).to_vector<int>(), up);
}

TEST(RoundingSchemes, RefuseWhatDoesNotFit) {
  using Invalid = std::invalid_argument;
  const auto scheme = rounding_schemes().make("adaround");
  const RoundingPass good = make_pass(*scheme, Parameterization::low_rank, Dtype::f32);
  RoundingPass pass = good;
  pass.scale = Tensor::zeros({7, 2}, Dtype::f32);
  expect_error<Invalid>([&] { scheme->forward(pass); }, {"adaround", "scale", "[7, 2]", "[7, 1]"});
  pass = good;
  pass.a2 = Tensor::zeros({2, 24}, Dtype::f32);
  expect_error<Invalid>([&] { scheme->forward(pass); }, {"A2", "[2, 24]", "[3, 24]"});
  pass = good;
  pass.a1 = Tensor::zeros({7, 3}, Dtype::f64);
  expect_error<Invalid>([&] { scheme->forward(pass); }, {"f32", "f64"});
  pass = good;
  pass.dense = Tensor::zeros({7, 24}, Dtype::f32);
  expect_error<Invalid>([&] { scheme->codes(pass); }, {"not both"});
  pass = good;
  pass.w = Tensor::zeros({7, 24}, Dtype::f16);
  expect_error<Invalid>([&] { scheme->forward(pass); }, {"f32, bf16 or f64", "f16"});
  expect_error<Invalid>(
      [&] {
        scheme->backward(good, Tensor::zeros({7, 23}, Dtype::f32), {});
      },
      {"adaround", "[7, 23]"});
}

TEST(RoundingSchemes, NamesRoundTrip) {
  for (auto p : {Parameterization::none, Parameterization::dense, Parameterization::low_rank}) {
    EXPECT_EQ(parameterization_from_name(name_of(p)), p);
  }
  for (auto s : {Start::fraction, Start::nearest, Start::zero}) {
    EXPECT_EQ(start_from_name(name_of(s)), s);
  }
  expect_error<std::invalid_argument>([] { start_from_name("middle"); }, {"middle", "fraction"});
}

}  // namespace
}  // namespace cbq
