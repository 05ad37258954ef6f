// Quantizers of tokens in one pass with what stands before them: against naive loops in double, and
// against the same computed step by step. Values must be the same bits; gradients, too, but where a
// row's terms are added: in which order is the compiler's choice.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "kernels/launch/tuned_switch.h"
#include "quant/activation_quantizer.h"
#include "quant/quantize_tokens.h"
#include "tests/on_a_grid.h"
#include "tests/test_data.h"
#include "tests/token_quantizers.h"

namespace cbq::test::test_quantize_tokens {
namespace {

using Doubles = std::vector<double>;
constexpr double eps = 1e-5;

/// One row of y in double, from the definitions.
Doubles naive(Before source, const Doubles& x, const Doubles& up, const Doubles& weight,
              const Doubles& bias) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, power = 0, variance = 0;
  for (double v : x) mean += v / n, power += v * v / n;
  for (double v : x) variance += (v - mean) * (v - mean) / n;
  Doubles y;
  for (size_t j = 0; j < x.size(); ++j) {
    const double v = x[j];
    switch (source) {
      case Before::identity:
        y.push_back(v);
        break;
      case Before::rms_norm:
        y.push_back(v / std::sqrt(power + eps) * weight[j]);
        break;
      case Before::layer_norm:
        y.push_back((v - mean) / std::sqrt(variance + eps));
        break;
      case Before::affine_layer_norm:
        y.push_back((v - mean) / std::sqrt(variance + eps) * weight[j] + bias[j]);
        break;
      case Before::swiglu:
        y.push_back(v / (1 + std::exp(-v)) * up[j]);
        break;
      case Before::relu:
        y.push_back(std::max(v, 0.0));
        break;
      case Before::gelu:
        y.push_back(0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))));
        break;
    }
  }
  return y;
}

/// The grid of a row, and what it makes of y when y and a have moved: the codes stay as they are,
/// what is inside the range follows straight through.
struct Grid {
  double s0, z, largest;
  Grid(const Doubles& y, const ActivationConfig& config) : largest((1 << config.bits) - 1) {
    double low = 0, high = 0;
    for (double v : y) low = std::min(low, v), high = std::max(high, v);
    const double reach = std::max(high, -low), middle = 1 << (config.bits - 1);
    s0 = (high - low) / largest;
    if (config.symmetric) {
      s0 = config.form == SymmetricForm::restricted ? reach / (middle - 1) : 2 * reach / largest;
    }
    if (s0 == 0) s0 = 1;
    z = config.symmetric ? middle : std::clamp(std::nearbyint(-low / s0), 0.0, largest);
  }
  double moved(double y0, double a0, double y, double a) const {
    const double s = s0 * std::exp(a0), code = std::nearbyint(y0 / s) + z;
    const double now = s0 * std::exp(a);
    if (code < 0 || code > largest) return now * (std::clamp(code, 0.0, largest) - z);
    return now * (code - z + y / now - y0 / s);
  }
};

struct Reference {
  Before source;
  std::vector<ActivationConfig> configs;
  Doubles clips, weight, bias;
  std::vector<Doubles> dy;  // per quantizer
  size_t rows, n;
  Doubles x0, up0;

  Doubles row(const Doubles& all, size_t r) const {
    if (all.empty()) return {};
    return {all.begin() + static_cast<long>(r * n), all.begin() + static_cast<long>((r + 1) * n)};
  }
  /// sum dy x^ where x, up and a have moved; with `out` the values of quantizer 0, 1, ...
  double loss(const Doubles& x, const Doubles& up, const Doubles& a,
              std::vector<Doubles>* out = nullptr) const {
    double total = 0;
    for (size_t r = 0; r < rows; ++r) {
      const Doubles y0 = naive(source, row(x0, r), row(up0, r), weight, bias);
      const Doubles y = naive(source, row(x, r), row(up, r), weight, bias);
      for (size_t i = 0; i < configs.size(); ++i) {
        const Grid grid(y0, configs[i]);
        for (size_t j = 0; j < n; ++j) {
          const double value = grid.moved(y0[j], clips[i], y[j], a[i]);
          if (out != nullptr) (*out)[i].push_back(value);
          total += dy[i][r * n + j] * value;
        }
      }
    }
    return total;
  }
  /// d loss / d v[k] for one of the three arguments.
  double slope(int argument, size_t k) const {
    const double step = 1e-6;
    double difference = 0;
    for (double sign : {1.0, -1.0}) {
      Doubles x = x0, up = up0, a = clips;
      (argument == 0 ? x : argument == 1 ? up : a)[k] += sign * step;
      difference += sign * loss(x, up, a);
    }
    return difference / (2 * step);
  }
};

/// Quantizers of several configurations with clip variables.
std::vector<std::unique_ptr<ActivationQuantizer>> quantizers_of(
    const std::vector<ActivationConfig>& configs, const Doubles& clips) {
  std::vector<std::unique_ptr<ActivationQuantizer>> all;
  for (size_t i = 0; i < configs.size(); ++i) {
    all.push_back(std::make_unique<ActivationQuantizer>(configs[i], Device::cpu(), "layer"));
    if (configs[i].quantizes()) kernels::fill(all.back()->variables()[0].value(), clips[i]);
  }
  return all;
}

std::vector<const FusedInput*> readers_of(
    const std::vector<std::unique_ptr<ActivationQuantizer>>& quantizers) {
  std::vector<const FusedInput*> readers;
  for (const auto& q : quantizers) readers.push_back(q.get());
  return readers;
}

/// Runs back from several outputs at once; undefined gradients are left out.
void backward(Tape& tape, const std::vector<Var>& outputs, const std::vector<Tensor>& dy) {
  Var total;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!dy[i].defined()) continue;
    const Var term = ag::sum(ag::mul(outputs[i], Var(dy[i])));
    total = total.defined() ? ag::add(term, total) : term;  // the first is reached first
  }
  tape.backward(total);
}

class QuantizeTokens : public ::testing::TestWithParam<Before> {
 protected:
  void SetUp() override {
    if (!tuned::enabled()) GTEST_SKIP() << "CBQ_FAST=0";
  }
};

TEST_P(QuantizeTokens, ValuesAndGradientsAreTheirFormulas) {
  const size_t rows = 3, n = 13;
  const Shape shape{3, 13};
  for (const Form form : {Form::asymmetric, Form::restricted, Form::full_range}) {
    for (size_t k = 1; k <= 3; ++k) {
      SCOPED_TRACE(concat("form ", static_cast<int>(form), ", ", k, " quantizers"));
      // Both clip and widen; 0.25 is exact in f32. Bits differ.
      const std::vector<ActivationConfig> configs = {config_of(4, form), config_of(3, form),
                                                     config_of(8, form)};
      Reference f{GetParam(),
                  {configs.begin(), configs.begin() + static_cast<long>(k)},
                  {-0.25, 0.25, 0.0},
                  {},
                  {},
                  {},
                  rows,
                  n};
      const Var x(normal(shape, 0.2, 1.0, 1, Dtype::f64), true),
          up(normal(shape, 0.1, 1.0, 2, Dtype::f64), true);
      const Var weight(normal({13}, 1.0, 0.3, 3, Dtype::f64)),
          bias(normal({13}, 0.0, 0.3, 4, Dtype::f64));
      f.x0 = x.value().to_vector<double>();
      if (f.source == Before::swiglu) f.up0 = up.value().to_vector<double>();
      f.weight = weight.value().to_vector<double>();
      f.bias = bias.value().to_vector<double>();
      std::vector<Tensor> dy;
      for (size_t i = 0; i < k; ++i) {
        dy.push_back(normal(shape, 0.0, 1.0, 5 + i, Dtype::f64));
        f.dy.push_back(dy.back().to_vector<double>());
      }
      const auto quantizers = quantizers_of(f.configs, f.clips);
      std::vector<Doubles> expected(k);
      f.loss(f.x0, f.up0, f.clips, &expected);
      {
        Tape tape;
        const auto readers = readers_of(quantizers);
        const std::vector<Var> y =
            quantizers[0]->inputs(deferred(f.source, x, up, weight, bias, eps), readers);
        ASSERT_EQ(y.size(), k);
        for (size_t i = 0; i < k; ++i) {
          const auto values = y[i].value().to_vector<double>();
          for (size_t j = 0; j < values.size(); ++j) {
            ASSERT_NEAR(values[j], expected[i][j], 1e-12) << i << " " << j;
          }
        }
        backward(tape, y, dy);
      }
      const auto dx = x.grad().to_vector<double>();
      for (size_t j = 0; j < dx.size(); ++j) ASSERT_NEAR(dx[j], f.slope(0, j), 1e-7) << j;
      EXPECT_EQ(up.grad().defined(), !f.up0.empty());
      if (up.grad().defined()) {
        const auto d = up.grad().to_vector<double>();
        for (size_t j = 0; j < d.size(); ++j) ASSERT_NEAR(d[j], f.slope(1, j), 1e-7) << j;
      }
      for (size_t i = 0; i < k; ++i) {
        const double slope = f.slope(2, i);
        EXPECT_NEAR(quantizers[i]->variables()[0].grad().item(), slope,
                    2e-6 * (1 + std::abs(slope)));
      }
    }
  }
}

/// Everything that comes out: values, dx, dup, and the clips' gradients.
struct Results {
  std::vector<Tensor> values, gradients;
};

struct Operands {
  Tensor x, up, weight, bias;
  std::vector<Tensor> dy;  // undefined: nothing flows back
  Operands(const Shape& shape, size_t k, Dtype dtype)
      : x(normal(shape, 0.2, 1.0, 1, dtype)),
        up(normal(shape, 0.1, 1.0, 2, dtype)),
        weight(normal({shape.back()}, 1.0, 0.3, 3, dtype)),
        bias(normal({shape.back()}, 0.0, 0.3, 4, dtype)) {
    for (size_t i = 0; i < k; ++i) dy.push_back(normal(shape, 0.0, 1.0, 5 + i, dtype));
  }
};

Results run(Before source, const Operands& in, const std::vector<ActivationConfig>& configs,
            bool fused, bool differentiable_x = true) {
  const auto quantizers = quantizers_of(configs, {-0.25, 0.25, 0.0, -0.5});
  const Var x(in.x, differentiable_x), up(in.up, differentiable_x), weight(in.weight),
      bias(in.bias);
  const Deferred y = deferred(source, x, up, weight, bias, eps);
  Results results;
  Tape tape;
  std::vector<Var> outputs(configs.size());
  if (fused) {
    outputs = quantizers[0]->inputs(y, readers_of(quantizers));
    EXPECT_EQ(outputs.size(), configs.size()) << "was not fused";
    if (outputs.size() != configs.size()) return results;
  } else {
    const tuned::ReferenceKernels plain;
    const Var computed = y.value();
    for (size_t i = configs.size(); i-- > 0;) outputs[i] = quantizers[i]->fake_quant(computed);
  }
  for (const Var& v : outputs) results.values.push_back(v.value());
  backward(tape, outputs, in.dy);
  results.gradients = {x.grad(), source == Before::swiglu ? up.grad() : Tensor()};
  for (const auto& q : quantizers) results.gradients.push_back(q->variables()[0].grad());
  return results;
}

/// The same, with here and there another code, where a tie went the other way.
void expect_close_codes(const Tensor& a, const Tensor& b, double tolerance,
                        const std::string& what) {
  const auto u = a.to_vector<double>(), v = b.to_vector<double>();
  ASSERT_EQ(u.size(), v.size()) << what;
  size_t others = 0;
  for (size_t i = 0; i < u.size(); ++i) {
    const bool close = std::isfinite(v[i]) ? std::abs(u[i] - v[i]) <= tolerance * std::abs(v[i])
                                           : std::isfinite(u[i]) == std::isfinite(v[i]);
    others += close ? 0 : 1;
  }
  EXPECT_LE(others, u.size() / 20) << what;
}

void expect_equal(Before source, const Results& fused, const Results& plain) {
  ASSERT_EQ(fused.values.size(), plain.values.size());
  const bool norm = is_norm(source);
  for (size_t i = 0; i < fused.values.size(); ++i) {
    const std::string what = concat("value ", i);
    if (norm && on_a_grid()) {  // there its sums are taken in another order
      expect_close_codes(fused.values[i], plain.values[i], tolerance_of(fused.values[i].dtype()),
                         what);
    } else {
      expect_same(fused.values[i], plain.values[i], what);
    }
  }
  for (size_t i = 0; i < fused.gradients.size(); ++i) {
    const Tensor &a = fused.gradients[i], &b = plain.gradients[i];
    const std::string what = concat("gradient ", i);
    if (i < 2 && !norm) {
      expect_same(a, b, what);
    } else if (i < 2) {
      expect_close(a, b, tolerance_of(fused.values[0].dtype()), what);
    } else {
      ASSERT_EQ(a.defined(), b.defined()) << what;
      if (!a.defined() || (std::isnan(a.item()) && std::isnan(b.item()))) continue;
      EXPECT_NEAR(a.item(), b.item(), 1e-4 * (1 + std::abs(b.item()))) << what;
    }
  }
}

const std::vector<ActivationConfig> mixed = {
    config_of(4), config_of(8), config_of(4, Form::restricted), config_of(2, Form::full_range)};

std::vector<ActivationConfig> first(size_t k) {
  return {mixed.begin(), mixed.begin() + static_cast<long>(k)};
}

TEST_P(QuantizeTokens, EqualsTheStepsOneByOne) {
  for (const Shape& shape : {Shape{3, 37}, {1, 1}, {0, 4}, {5, 4099}, {2, 3, 16}}) {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16, Dtype::f16}) {
      for (size_t k = 1; k <= 4; ++k) {
        if (shape[1] > 1000 && k != 1 && k != 4) continue;
        SCOPED_TRACE(concat(to_string(shape), " ", name_of(dtype), ", ", k, " quantizers"));
        const Operands in(shape, k, dtype);
        expect_equal(GetParam(), run(GetParam(), in, first(k), true),
                     run(GetParam(), in, first(k), false));
      }
    }
  }
}

TEST_P(QuantizeTokens, ConstantsBelowGetNoGradient) {
  const Operands in({3, 37}, 2, Dtype::f32);
  const Results fused = run(GetParam(), in, first(2), true, false);
  expect_equal(GetParam(), fused, run(GetParam(), in, first(2), false, false));
  EXPECT_FALSE(fused.gradients[0].defined());
}

TEST_P(QuantizeTokens, OutputsThatNobodyReadsTakeNoPart) {
  for (const size_t left_out : {0u, 1u, 2u}) {
    Operands in({3, 37}, 3, Dtype::bf16);
    in.dy[left_out] = Tensor();
    const Results fused = run(GetParam(), in, first(3), true);
    expect_equal(GetParam(), fused, run(GetParam(), in, first(3), false));
    EXPECT_FALSE(fused.gradients[2 + left_out].defined());
  }
}

TEST_P(QuantizeTokens, TiesZerosAndDamagedRowsAreAsEver) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    Operands in({6, 8}, 2, dtype);
    const double inf = INFINITY, huge = dtype == Dtype::bf16 ? 1e38 : 3e38;
    in.x = Tensor::from<double>({0,   0,   0,  0,  0,   0,    0,     0,       // zeros
                                 0,   0.5, 1,  3,  5,   7,    9,     15,      // ties
                                 1,   NAN, 2,  -3, 0.5, 0,    -0.0,  4,       //
                                 inf, 1,   2,  -3, 0.5, 0,    -0.0,  4,       //
                                 1,   2,   -3, 4,  5,   -inf, inf,   7,       //
                                 1,   2,   -3, 4,  5,   huge, -huge, 1e-38},  // overflows
                                {6, 8}, dtype);
    expect_equal(GetParam(), run(GetParam(), in, first(2), true),
                 run(GetParam(), in, first(2), false));
  }
}

// Nothing but the range, a norm's numbers and the clips is kept; y is computed again.
TEST_P(QuantizeTokens, KeepsNoOutputOfTheFunction) {
  if (GetParam() == Before::identity) return;
  const Operands in({64, 1024}, 2, Dtype::f32);
  const auto kept = [&](bool fused) {
    const auto quantizers = quantizers_of(first(2), {0, 0});
    const Deferred y =
        deferred(GetParam(), Var(in.x, true), Var(in.up, true), Var(in.weight), Var(in.bias), eps);
    const int64_t before = memory_statistics(Device::cpu()).current_bytes;
    const Tape tape;
    std::vector<Var> outputs;
    if (fused) {
      outputs = quantizers[0]->inputs(y, readers_of(quantizers));
    } else {
      const tuned::ReferenceKernels plain;
      const Var computed = y.value();
      for (const auto& q : quantizers) outputs.push_back(q->fake_quant(computed));
    }
    return memory_statistics(Device::cpu()).current_bytes - before;
  };
  EXPECT_LE(kept(true), kept(false) - in.x.bytes() + 64 * 4 * 8);
}

INSTANTIATE_TEST_SUITE_P(Sources, QuantizeTokens, ::testing::ValuesIn(all_before),
                         [](const auto& one) { return name_of(one.param); });

TEST(QuantizeTokensCovers, NothingElse) {
  if (!tuned::enabled()) GTEST_SKIP() << "CBQ_FAST=0";
  const Var x(normal({3, 16}, 0.0, 1.0, 1, Dtype::f32), true);
  const Deferred y = Deferred(&ag::relu, x);
  const auto fuses = [&](const std::vector<ActivationConfig>& configs, const Deferred& deferred) {
    const auto quantizers = quantizers_of(configs, Doubles(configs.size()));
    return !quantizers[0]->inputs(deferred, readers_of(quantizers)).empty();
  };
  EXPECT_TRUE(fuses({config_of(4), config_of(8)}, y));
  EXPECT_FALSE(fuses({config_of(4), config_of(16)}, y));
  EXPECT_FALSE(fuses(std::vector(5, config_of(4)), y));
  ActivationConfig per_tensor = config_of(4);
  per_tensor.granularity = Granularity::per_tensor;
  per_tensor.dynamic = false;
  EXPECT_FALSE(fuses({config_of(4), per_tensor}, y));
  EXPECT_FALSE(fuses({per_tensor}, y));
  {
    const tuned::ReferenceKernels plain;
    EXPECT_FALSE(fuses({config_of(4)}, y));
  }
  const Var weight(normal({16}, 1.0, 0.3, 2, Dtype::f32), true);
  const Deferred trained = Deferred(&ag::rms_norm, x, weight, eps);
  EXPECT_TRUE(fuses({config_of(4)}, trained));
  EXPECT_FALSE(fuses({config_of(4)}, Deferred(&ag::softmax, x))) << "there is no kernel for it";
  const Tape tape;
  EXPECT_FALSE(fuses({config_of(4)}, trained)) << "nobody computes the weight's gradient";
}

TEST(QuantizeTokensCovers, RefusesWhatDoesNotFit) {
  using Invalid = std::invalid_argument;
  const Var x(normal({3, 16}, 0.0, 1.0, 1, Dtype::f32)), narrow(normal({8}, 0, 1, 2, Dtype::f32));
  const Var wide(normal({16}, 0, 1, 2, Dtype::f64)), other(normal({3, 8}, 0, 1, 2, Dtype::f32));
  const TokenQuantizer q{Tensor::zeros({1}, Dtype::f32), config_of(4)};
  const auto refuses = [&](const Deferred& y, const std::vector<TokenQuantizer>& quantizers,
                           const char* why) {
    expect_error<Invalid>([&] { quantize_tokens(y, quantizers); }, {"quantize_tokens", why});
  };
  refuses(Deferred(&ag::rms_norm, x, narrow, eps), {q}, "weight");
  refuses(Deferred(&ag::rms_norm, x, wide, eps), {q}, "weight is f64");
  refuses(Deferred(&ag::layer_norm, x, Var(), wide, eps), {q}, "operands");
  refuses(Deferred(&ag::softmax, x), {q}, "no kernel for this function");
  refuses(Deferred(&ag::swiglu, x, other), {q}, "");
  refuses(Deferred(x), {}, "1 to 4");
  refuses(Deferred(x), {{Tensor::zeros({2}, Dtype::f32), config_of(4)}}, "clip");
  refuses(Deferred(x), {{q.clip, config_of(16)}}, "per token");
}

}  // namespace
}  // namespace cbq::test::test_quantize_tokens
