// The contract of every registered rounding scheme, dense and low rank: its grid, its start, what
// it learns. Its values and gradients: test_rounding_math.cpp.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "autograd/functions.h"
#include "autograd/optim.h"
#include "tests/rounding_contract.h"
#include "tests/test_data.h"

namespace cbq::test::test_rounding {
namespace {

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
      if (scheme_->math() == nullptr) continue;  // coupled to the other weights of the row
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
        } else if (start == Start::zero && scheme_->math() != nullptr) {
          EXPECT_EQ(scheme_->math()->initial(0.37, start), 0.0);
        }
      }
    }
  }
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
      for (Tensor* t : {&low.scale, &low.zero_point, &low.dense, &low.a1, &low.a2, &low.unit}) {
        *t = to(*t, Dtype::f32);
      }
      RoundingPass high = exact;  // the same numbers as `low`
      high.hard = hard;
      high.w = to(low.w, Dtype::f64);
      for (Tensor* t :
           {&high.scale, &high.zero_point, &high.dense, &high.a1, &high.a2, &high.unit}) {
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
  rounding.parameterization = parameterization_;
  if (scheme_->default_parameterization() == Parameterization::none &&
      parameterization_ != Parameterization::none) {
    EXPECT_THROW(WeightQuantizer(w.value(), config, rounding, "layer", 1, 2),
                 std::invalid_argument);
    return;
  }
  WeightQuantizer quantizer(w.value(), config, rounding, "layer", 1, 2);
  const bool learns = !quantizer.variables("rounding").empty();
  RoundingConfig nearest_config;
  const WeightQuantizer nearest(w.value(), config, nearest_config, "layer", 1, 2);
  const Tensor target = kernels::matmul(x, kernels::Trans::no, w.value(), kernels::Trans::yes);
  quantizer.set_hard(true);
  std::vector<ParameterGroup> groups(2);
  groups[0].variables = quantizer.variables("scale");
  groups[0].settings.rate = 1e-3;
  groups[1].variables = quantizer.variables("rounding");
  groups[1].settings.rate = 0.02;
  Adam adam(groups);
  double reached = output_error(quantizer, x, w);
  auto best = quantizer.snapshot();
  for (int step = 0; step < 200; ++step) {
    Tape tape;
    const Var y = ag::linear(Var(x), quantizer.fake_quant(w), Var());
    tape.backward(ag::row_error(y, target, 1.0, kernels::L2Form::sum, 0.0));
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

INSTANTIATE_TEST_SUITE_P(Rounding, RoundingContract, ::testing::ValuesIn(all_rounding_cases()),
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
}  // namespace cbq::test::test_rounding
