// The weight quantizer: variables, scale forms, hardening, snapshots.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/optim.h"
#include "kernels/ops.h"
#include "quant/quantized_linear.h"
#include "tests/test_data.h"

namespace cbq::test_weight_quantizer {
namespace {

Tensor normal(Shape shape, double deviation, uint64_t stream, Dtype dtype = Dtype::f32) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, 0.0, deviation, 21, stream);
  return t;
}

WeightConfig bits(int count) {
  WeightConfig config;
  config.bits = count;
  return config;
}

RoundingConfig scheme(const std::string& name, const std::string& parameterization = "default") {
  RoundingConfig config;
  config.scheme = name;
  if (parameterization != "default") {
    config.parameterization = parameterization_from_name(parameterization);
  }
  return config;
}

std::vector<double> weights_of(const WeightQuantizer& quantizer, const Tensor& w) {
  return quantizer.fake_quant(Var(w)).value().to_vector<double>();
}

TEST(WeightQuantizer, OffersTheVariablesItsSettingsAskFor) {
  const Tensor w = normal({6, 16}, 0.02, 1);
  const auto shapes = [&](const RoundingConfig& rounding) {
    const WeightQuantizer q(w, bits(3), rounding, "layer", 1, 2);
    std::vector<Shape> all;
    for (const LearnedGroup& group : q.groups()) {
      for (const Var& v : group.variables) all.push_back(v.shape());
    }
    return all;
  };
  using Shapes = std::vector<Shape>;
  EXPECT_EQ(shapes(scheme("nearest")), (Shapes{{6, 1}}));
  EXPECT_EQ(shapes(scheme("adaround")), (Shapes{{6, 1}, {6, 16}}));
  EXPECT_EQ(shapes(scheme("lora_rounding")), (Shapes{{6, 1}, {6, 5}, {5, 16}}));
  EXPECT_EQ(shapes(scheme("signround", "low_rank")), (Shapes{{6, 1}, {6, 5}, {5, 16}}));
  EXPECT_EQ(shapes(scheme("signround", "none")), (Shapes{{6, 1}}));
  RoundingConfig grid = scheme("nearest");
  grid.grid = "fixed";
  EXPECT_EQ(shapes(grid), Shapes{});
  grid.learn_zero_point = true;
  EXPECT_EQ(shapes(grid), (Shapes{{6, 1}}));
  grid.grid = "clip";
  EXPECT_EQ(shapes(grid), (Shapes{{6, 1}, {6, 1}, {6, 1}}));
}

TEST(WeightQuantizer, LowRankStartsAtZeroWithGaussianA1) {
  RoundingConfig config = scheme("lora_rounding");
  config.rank = 16;
  const Tensor w = normal({200, 24}, 0.02, 1);
  const WeightQuantizer q(w, bits(3), config, "layer", 5, 6), again(w, bits(3), config, "l", 5, 6),
      other(w, bits(3), config, "l", 5, 7);
  const auto a1 = q.variables("rounding")[0].value().to_vector<double>();
  double squares = 0.0;
  for (double a : a1) squares += a * a;
  EXPECT_NEAR(squares / static_cast<double>(a1.size()), 1.0 / 16, 0.005);
  for (double a : q.variables("rounding")[1].value().to_vector<double>()) EXPECT_EQ(a, 0.0);
  EXPECT_EQ(again.variables("rounding")[0].value().to_vector<double>(), a1);
  EXPECT_NE(other.variables("rounding")[0].value().to_vector<double>(), a1);
}

// Weights of a group times a power of two, gradients divided by it: the codes that are learned
// stay.
TEST(WeightQuantizer, StepsAreInUnitsOfEachGroupsScale) {
  constexpr int64_t out = 6, in = 24, group = 8;
  WeightConfig grid = bits(3);
  grid.granularity = Granularity::per_group;
  grid.group_size = group;
  const auto scaled = [&](const Tensor& t, int sign) {
    std::vector<double> values = t.to_vector<double>();
    for (size_t i = 0; i < values.size(); ++i) {
      const int exponent = static_cast<int>((3 * (i / in) + 5 * (i % in / group)) % 9) - 4;
      values[i] = std::ldexp(values[i], sign * exponent);
    }
    return Tensor::from(values, t.shape(), t.dtype());
  };
  for (const std::string& name : rounding_schemes().names()) {
    for (const char* parameterization : {"dense", "low_rank"}) {
      if (name == "nearest") continue;
      std::vector<std::vector<int>> codes;
      for (const int sign : {0, 1}) {
        const Tensor w = scaled(normal({out, in}, 0.02, 1), sign);
        WeightQuantizer q(w, grid, scheme(name, parameterization), "layer", 1, 2);
        q.set_hard(true);
        Adam adam({{q.variables("rounding"), {.rate = 0.1}}, {q.variables("scale"), {}}});
        for (uint64_t step = 0; step < 12; ++step) {
          Tape tape;
          tape.backward(q.fake_quant(Var(w)), scaled(normal({out, in}, 1.0, 10 + step), -sign));
          adam.step(1.0);
        }
        q.harden(w);
        codes.push_back(unpack_codes(q.packed().codes, 3, in).to_vector<int>());
      }
      EXPECT_EQ(codes[0], codes[1]) << name << " " << parameterization;
    }
  }
}

TEST(WeightQuantizer, ScaleForms) {
  const Tensor w = normal({4, 8}, 0.02, 1, Dtype::f64);
  const Tensor dy = normal({4, 8}, 1.0, 2, Dtype::f64);
  for (const std::string form : {"raw", "relative", "log"}) {
    RoundingConfig config = scheme("nearest");
    config.grid = form;
    const WeightQuantizer q(w, bits(3), config, "layer", 1, 1);
    const auto scale = [&q] { return q.grid().scale.to_vector<double>(); };
    const Var x = q.variables("scale")[0];
    const auto s0 = q.start_grid().scale.to_vector<double>();
    EXPECT_EQ(scale(), s0);
    kernels::fill(x.value(), form == "raw" ? 0.001 : 0.1);
    const auto s = scale();
    {
      Tape tape;
      tape.backward(q.fake_quant(Var(w)), dy);
    }
    const auto g = x.grad().to_vector<double>();
    for (size_t i = 0; i < s.size(); ++i) {
      const double want = form == "raw"        ? s0[i] + 0.001
                          : form == "relative" ? s0[i] * 1.1
                                               : s0[i] * std::exp(0.1);
      EXPECT_NEAR(s[i], want, 1e-15) << form;
      const RoundingPass pass{.w = w,
                              .scale = q.grid().scale,
                              .zero_point = q.start_grid().zero_point,
                              .bits = 3,
                              .group = 8,
                              .dense = {},
                              .a1 = {},
                              .a2 = {}};
      const double ds =
          rounding_schemes().make("nearest")->backward(pass, dy, {}).scale.to_vector<double>()[i];
      const double slope = form == "raw" ? 1.0 : (form == "log" ? s[i] : s0[i]);
      EXPECT_NEAR(g[i], ds * slope, 1e-12) << form;
    }
    // No step can make a scale vanish or turn it round.
    if (form == "log") continue;
    kernels::fill(x.value(), -10.0);
    for (size_t i = 0; i < s.size(); ++i) EXPECT_EQ(scale()[i], s0[i] / 1024);
  }
}

TEST(WeightQuantizer, HardPhaseGivesGridPointsAndStillGradients) {
  const Tensor w = normal({4, 16}, 0.02, 1);
  WeightQuantizer q(w, bits(2), scheme("adaround"), "layer", 1, 1);
  const auto relaxed = weights_of(q, w);
  q.set_hard(true);
  const auto hard = weights_of(q, w);
  EXPECT_NE(relaxed, hard);
  {
    Tape tape;
    tape.backward(q.fake_quant(Var(w)), normal({4, 16}, 1.0, 3));
  }
  double size = 0.0;
  for (double g : q.variables("rounding")[0].grad().to_vector<double>()) size += std::abs(g);
  EXPECT_GT(size, 0.0);
}

TEST(WeightQuantizer, RegularizerReachesValueAndGradient) {
  const Tensor w = normal({4, 16}, 0.02, 1);
  WeightQuantizer q(w, bits(2), scheme("adaround"), "layer", 1, 1);
  EXPECT_EQ(q.regularizer_value(w), 0.0);
  q.set_regularizer({0.5, 2.0});
  EXPECT_GT(q.regularizer_value(w), 0.0);
  {
    Tape tape;
    tape.backward(q.fake_quant(Var(w)), Tensor::zeros({4, 16}, Dtype::f32));
  }
  double size = 0.0;
  for (double g : q.variables("rounding")[0].grad().to_vector<double>()) size += std::abs(g);
  EXPECT_GT(size, 0.0);
}

TEST(WeightQuantizer, HardenKeepsTheHardWeightsToTheBit) {
  for (const std::string& name : rounding_schemes().names()) {
    for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      const Tensor w = normal({6, 16}, 0.02, 1, dtype);
      WeightConfig config = bits(3);
      config.granularity = Granularity::per_group;
      config.group_size = 8;
      WeightQuantizer q(w, config, scheme(name), "layer", 1, 1);
      for (const Var& v : q.variables("scale")) kernels::fill(v.value(), 0.03);
      for (const Var& v : q.variables("rounding")) kernels::fill_normal(v.value(), 0, 0.2, 1, 9);
      q.set_hard(true);
      const auto hard = weights_of(q, w);
      const auto scale = q.grid().scale.to_vector<double>();
      expect_error<std::invalid_argument>([&] { q.packed(); }, {"layer", "not hardened"});
      q.harden(w);
      EXPECT_TRUE(q.hardened());
      EXPECT_TRUE(q.variables("scale").empty() && q.variables("rounding").empty());
      EXPECT_EQ(weights_of(q, w), hard) << name;
      EXPECT_EQ(q.grid().scale.to_vector<double>(), scale);
      EXPECT_EQ(dequantize(q.packed(), dtype, Device::cpu()).to_vector<double>(), hard);
      expect_error<std::invalid_argument>([&] { q.harden(w); }, {"layer", "already"});
    }
  }
}

TEST(WeightQuantizer, SnapshotsRestore) {
  const Tensor w = normal({6, 16}, 0.02, 1);
  for (const std::string& name : rounding_schemes().names()) {
    WeightQuantizer q(w, bits(2), scheme(name), "layer", 1, 1);
    q.set_hard(true);
    const auto before = weights_of(q, w);
    const auto saved = q.snapshot();
    std::vector<Var> variables = q.variables("rounding");
    variables.push_back(q.variables("scale")[0]);
    for (const Var& v : variables) kernels::fill_normal(v.value(), 0, 0.5, 1, 9);
    EXPECT_NE(weights_of(q, w), before) << name;
    q.restore(saved);
    EXPECT_EQ(weights_of(q, w), before) << name;
    // A hardened snapshot makes another quantizer the same.
    q.harden(w);
    WeightQuantizer other(w, bits(2), scheme(name), "layer", 3, 3);
    other.restore(q.snapshot());
    EXPECT_TRUE(other.hardened());
    EXPECT_EQ(weights_of(other, w), before) << name;
    expect_error<std::invalid_argument>([&] { other.restore(saved); }, {"layer", "hardened"});
  }
  WeightQuantizer q(w, bits(2), scheme("adaround"), "layer", 1, 1);
  expect_error<std::invalid_argument>([&] { q.restore({}); }, {"layer", "lacks", "scale_variable"});
}

TEST(WeightQuantizer, GoesOnFromASolution) {
  const Tensor w = normal({6, 16}, 0.02, 1), solution = normal({6, 16}, 0.03, 2);
  const WeightGrid grid = weight_grid(solution, bits(3), "layer");
  for (const char* name : {"nearest", "signround", "adaround", "lora_rounding"}) {
    SCOPED_TRACE(name);
    WeightQuantizer plain(solution, bits(3), scheme(name), "layer", 1, 2);
    WeightQuantizer started(w, bits(3), scheme(name), "layer", 1, 2);
    EXPECT_TRUE(started.solution().empty());
    started.start_from(solution, grid);
    for (const bool hard : {false, true}) {
      plain.set_hard(hard);
      started.set_hard(hard);
      EXPECT_EQ(weights_of(started, w), weights_of(plain, solution));
    }
    // A snapshot with the solution brings another quantizer to the same place.
    auto state = started.snapshot();
    for (const auto& value : started.solution()) state.push_back(value);
    WeightQuantizer restored(w, bits(3), scheme(name), "layer", 5, 6);
    restored.restore(state);
    restored.set_hard(true);
    EXPECT_EQ(weights_of(restored, w), weights_of(plain, solution));
    started.harden(w);
    EXPECT_EQ(weights_of(started, w), weights_of(plain, solution));
    EXPECT_TRUE(started.solution().empty());
    EXPECT_THROW(started.start_from(solution, grid), std::invalid_argument);
  }
  WeightQuantizer other(w, bits(3), scheme("signround"), "layer", 1, 2);
  expect_error<std::invalid_argument>(
      [&] {
        other.start_from(normal({6, 8}, 0.03, 2), grid);
      },
      {"layer", "[6, 16]"});
  expect_error<std::invalid_argument>(
      [&] { other.start_from(solution, weight_grid(solution, bits(4), "layer")); },
      {"layer", "4 bits", "3 bits"});
}

TEST(WeightQuantizer, NothingIsRecordedForConstants) {
  const Tensor w = normal({6, 16}, 0.02, 1);
  RoundingConfig config = scheme("nearest");
  config.grid = "fixed";
  const WeightQuantizer q(w, bits(2), config, "layer", 1, 1);
  Tape tape;
  EXPECT_FALSE(q.fake_quant(Var(w)).requires_grad());
  EXPECT_EQ(tape.size(), 0u);
}

TEST(WeightQuantizer, RefusesImpossibleSettings) {
  using Invalid = std::invalid_argument;
  const Tensor w = normal({6, 16}, 0.02, 1);
  const auto make = [&](const WeightConfig& config, const RoundingConfig& rounding) {
    WeightQuantizer(w, config, rounding, "model.q_proj", 1, 1);
  };
  expect_error<Invalid>([&] { make(bits(4), scheme("sinround")); }, {"sinround", "signround"});
  expect_error<Invalid>([&] { make(bits(4), scheme("adaround", "sparse")); },
                        {"sparse", "low_rank"});
  expect_error<Invalid>([&] { make(bits(4), scheme("nearest", "dense")); },
                        {"model.q_proj", "nearest", "dense"});
  RoundingConfig rounding = scheme("signround");
  rounding.start = Start::fraction;
  expect_error<Invalid>([&] { make(bits(4), rounding); },
                        {"model.q_proj", "signround", "fraction"});
  rounding = scheme("lora_rounding");
  rounding.rank = 0;
  expect_error<Invalid>([&] { make(bits(4), rounding); }, {"model.q_proj", "rank"});
  WeightConfig group = bits(4);
  group.granularity = Granularity::per_group;
  group.group_size = 12;
  expect_error<Invalid>([&] { make(group, scheme("nearest")); }, {"model.q_proj", "12", "16"});
  Tensor damaged = w.clone();
  damaged.data<float>()[7] = NAN;
  expect_error<Invalid>(
      [&] { WeightQuantizer(damaged, bits(4), scheme("nearest"), "model.q_proj", 1, 1); },
      {"model.q_proj", "NaN"});
}

TEST(QuantizedTransform, PlugsIntoALinear) {
  Linear layer(16, 6, false, Dtype::f32, Device::cpu());
  layer.weight.set_value(normal({6, 16}, 0.02, 1));
  auto quantizer = std::make_unique<WeightQuantizer>(layer.weight.value(), bits(3),
                                                     scheme("signround"), "layer", 1, 1);
  const Tensor expected = quantizer->fake_quant(layer.weight).value();
  layer.transform = std::make_shared<QuantizedTransform>(std::move(quantizer), nullptr);
  const Var x(normal({3, 16}, 1.0, 2));
  EXPECT_EQ(layer.forward(x).value().to_vector<float>(),
            ag::linear(x, Var(expected), Var()).value().to_vector<float>());
}

}  // namespace
}  // namespace cbq::test_weight_quantizer
