// The activation quantizer against naive loops in double.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops.h"
#include "quant/activation_quantizer.h"
#include "tests/test_data.h"

namespace cbq::test_activation_quantizer {
namespace {

Tensor normal(Shape shape, double mean, uint64_t stream, Dtype dtype) {
  Tensor t(std::move(shape), dtype);
  kernels::fill_normal(t, mean, 1.0, 31, stream);
  return t;
}

/// One row (or, per tensor, all of x) with its grid; everything in double.
struct Row {
  double s, z, largest;
  Row(const std::vector<double>& x, double a, const ActivationConfig& config)
      : largest((1 << config.bits) - 1) {
    double low = 0, high = 0;
    for (double value : x) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const double reach = std::max(high, -low), middle = 1 << (config.bits - 1);
    if (!config.symmetric) {
      s = (high - low) / largest;
    } else {
      s = config.form == SymmetricForm::restricted ? reach / (middle - 1) : 2 * reach / largest;
    }
    if (s == 0) s = 1;
    z = config.symmetric ? middle : std::clamp(std::nearbyint(-low / s), 0.0, largest);
    s *= std::exp(a);
  }
  double code(double x) const { return std::nearbyint(x / s) + z; }
  bool inside(double x) const { return code(x) >= 0 && code(x) <= largest; }
  double quantized(double x) const { return s * (std::clamp(code(x), 0.0, largest) - z); }
};

struct Case {
  ActivationConfig config;
  const char* what;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  ActivationConfig config;
  config.bits = 4;
  all.push_back({config, "per token, asymmetric"});
  config.symmetric = true;
  all.push_back({config, "per token, symmetric"});
  config.form = SymmetricForm::full_range;
  all.push_back({config, "per token, symmetric, full range"});
  config.symmetric = false;
  config.granularity = Granularity::per_tensor;
  config.dynamic = false;
  all.push_back({config, "per tensor, static"});
  config.symmetric = true;
  all.push_back({config, "per tensor, static, symmetric"});
  return all;
}

void set_clip(ActivationQuantizer& quantizer, double a) {
  kernels::fill(quantizer.variables()[0].value(), a);
}

TEST(ActivationQuantizer, ForwardAndGradientsAreTheirFormulas) {
  for (const Case& c : cases()) {
    // 0.25 and -0.25 are exact in f32; a negative one clips.
    for (double a : {0.0, -0.25, 0.25}) {
      const Tensor x = normal({5, 24}, 0.3, 1, Dtype::f64),
                   dy = normal({5, 24}, 0.0, 2, Dtype::f64);
      ActivationQuantizer quantizer(c.config, Device::cpu(), "layer");
      quantizer.observe(x);
      set_clip(quantizer, a);
      const Var input(x, true);
      std::vector<double> y;
      {
        Tape tape;
        const Var out = quantizer.fake_quant(input);
        y = out.value().to_vector<double>();
        tape.backward(out, dy);
      }
      const auto values = x.to_vector<double>(), g = dy.to_vector<double>();
      const auto dx = input.grad().to_vector<double>();
      double da = 0.0;
      int clipped = 0;
      for (size_t r = 0; r < 5; ++r) {
        const bool whole = c.config.granularity == Granularity::per_tensor;
        const auto begin = values.begin() + static_cast<long>(whole ? 0 : r * 24);
        const Row row({begin, begin + (whole ? 120 : 24)}, a, c.config);
        for (size_t i = r * 24; i < (r + 1) * 24; ++i) {
          const double tolerance = c.config.dynamic ? 1e-12 : 1e-6;
          EXPECT_NEAR(y[i], row.quantized(values[i]), tolerance) << c.what << ", a " << a;
          EXPECT_EQ(dx[i], row.inside(values[i]) ? g[i] : 0.0) << c.what << ", a " << a;
          clipped += row.inside(values[i]) ? 0 : 1;
          // s moves with a; what is inside follows x straight through: s (r0 + (x/s - x/s0)).
          const auto moved = [&](double step) {
            const double s = row.s * std::exp(step);
            if (!row.inside(values[i])) return s * row.quantized(values[i]) / row.s;
            return s * (row.quantized(values[i]) / row.s + values[i] / s - values[i] / row.s);
          };
          da += g[i] * (moved(1e-6) - moved(-1e-6)) / 2e-6;
        }
      }
      EXPECT_TRUE(a >= 0 || clipped > 0) << c.what;
      EXPECT_NEAR(quantizer.variables()[0].grad().item(), da, 1e-5 * (1 + std::abs(da))) << c.what;
    }
  }
}

TEST(ActivationQuantizer, ZerosStayZeroAndTiesGoToEven) {
  ActivationConfig config;
  config.bits = 2;
  const ActivationQuantizer quantizer(config, Device::cpu(), "layer");
  // Second row: range 0..6, s = 2, z = 0; 1, 3 and 5 are ties.
  const Var x(Tensor::from<float>({0, 0, 0, 0, 1, 3, 5, 6}, {2, 4}));
  EXPECT_EQ(quantizer.fake_quant(x).value().to_vector<float>(),
            (std::vector<float>{0, 0, 0, 0, 0, 4, 4, 6}));
}

TEST(ActivationQuantizer, LowerPrecisionFollowsDouble) {
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    ActivationConfig config;
    config.bits = 8;
    const ActivationQuantizer quantizer(config, Device::cpu(), "layer");
    const Tensor low = normal({6, 40}, 0.3, 1, dtype), high = kernels::cast(low, Dtype::f64);
    const auto a = quantizer.fake_quant(Var(low)).value().to_vector<double>();
    const auto b = quantizer.fake_quant(Var(high)).value().to_vector<double>();
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], (dtype == Dtype::bf16 ? 4e-3 : 1e-6) * (std::abs(b[i]) + 0.1));
    }
  }
}

TEST(ActivationQuantizer, StaticRangeIsThatOfAllCalibrationData) {
  ActivationConfig config;
  config.bits = 2;
  config.granularity = Granularity::per_tensor;
  config.dynamic = false;
  ActivationQuantizer quantizer(config, Device::cpu(), "model.q");
  const Var x(Tensor::from<float>({-1, 0.2f, 1, 7}, {2, 2}));
  expect_error<std::invalid_argument>([&] { quantizer.fake_quant(x); }, {"model.q", "observe"});
  quantizer.observe(Tensor::from<float>({-1, 1}, {1, 2}));
  quantizer.observe(Tensor::from<float>({0, 2}, {1, 2}));
  // Range -1..2: s = 1, z = 1, values -1, 0, 1, 2.
  const std::vector<float> expected{-1, 0, 1, 2};
  EXPECT_EQ(quantizer.fake_quant(x).value().to_vector<float>(), expected);
  ActivationQuantizer other(config, Device::cpu(), "model.q");
  other.restore(quantizer.snapshot());
  EXPECT_EQ(other.fake_quant(x).value().to_vector<float>(), expected);
  Tensor damaged = Tensor::from<float>({1, NAN}, {1, 2});
  expect_error<std::invalid_argument>([&] { quantizer.observe(damaged); }, {"model.q", "NaN"});
}

TEST(ActivationQuantizer, SnapshotsRestore) {
  ActivationConfig config;
  config.bits = 4;
  ActivationQuantizer quantizer(config, Device::cpu(), "layer");
  const Var x(normal({3, 8}, 0.0, 1, Dtype::f32));
  const auto before = quantizer.fake_quant(x).value().to_vector<float>();
  const auto saved = quantizer.snapshot();
  set_clip(quantizer, -0.5);
  EXPECT_NE(quantizer.fake_quant(x).value().to_vector<float>(), before);
  quantizer.restore(saved);
  EXPECT_EQ(quantizer.fake_quant(x).value().to_vector<float>(), before);
}

TEST(ActivationQuantizer, SixteenBitsAreNoQuantizer) {
  ActivationQuantizer quantizer(ActivationConfig{}, Device::cpu(), "layer");
  const Var x(normal({3, 8}, 0.0, 1, Dtype::f32));
  EXPECT_TRUE(quantizer.fake_quant(x).is(x));
  EXPECT_TRUE(quantizer.variables().empty());
}

TEST(ActivationQuantizer, RefusesImpossibleSettings) {
  using Invalid = std::invalid_argument;
  const auto make = [](const ActivationConfig& config) {
    ActivationQuantizer(config, Device::cpu(), "model.q");
  };
  ActivationConfig config;
  config.bits = 4;
  config.granularity = Granularity::per_channel;
  expect_error<Invalid>([&] { make(config); },
                        {"model.q", "per_token, per_tensor or per_cluster", "per_channel"});
  config.granularity = Granularity::per_token;
  config.dynamic = false;
  expect_error<Invalid>([&] { make(config); }, {"model.q", "static", "per_tensor"});
  config.granularity = Granularity::per_tensor;
  config.dynamic = true;
  expect_error<Invalid>([&] { make(config); }, {"model.q", "dynamic", "batch", "per_token"});
  config = {};
  config.bits = 1;
  config.symmetric = true;
  expect_error<Invalid>([&] { make(config); }, {"model.q", "1-bit"});
  config = {};
  config.bits = 0;
  expect_error<Invalid>([&] { make(config); }, {"model.q", "1 to 15"});
}

}  // namespace
}  // namespace cbq::test_activation_quantizer
