// Quantizers of tokens: the tuned kernels against their reference kernels, on a GPU where there
// is one, and as emulated grids in cbq_simt_tests. In a program that has neither, these are
// skipped.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "kernels/launch/launch.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "quant/quantize_tokens.h"

namespace cbq {
namespace {

using Function = Deferred::Function;

/// Where functors become grids.
std::optional<Device> grid_device() {
  if (runs_on_grid(Device::cpu())) return Device::cpu();
  if (cuda_device_count() > 0) return Device::cuda();
  return std::nullopt;
}

struct Before {
  const char* name;
  Function function;
  bool affine;
  bool norm() const { return function == Function::rms_norm || function == Function::layer_norm; }
};

/// A function of tensors, three quantizers and gradients for them.
struct Case {
  Before before;
  Dtype dtype;
  Device device;
  Var x, up, weight, bias;
  std::vector<TokenQuantizer> quantizers;
  std::vector<Tensor> dy;

  Case(const Before& function, const Shape& shape, Dtype type, Device where, size_t k)
      : before(function), dtype(type), device(where) {
    const Shape row{shape.back()};
    x = Var(normal(shape, 0.2, 1.0));
    up = Var(normal(shape, 0.1, 1.0));
    weight = Var(normal(row, 1.0, 0.3));
    bias = Var(normal(row, 0.0, 0.3));
    for (size_t i = 0; i < k; ++i) {
      ActivationConfig config;
      config.bits = i == 1 ? 8 : 4;
      config.symmetric = i == 2;
      Tensor clip({1}, Dtype::f32);
      kernels::fill(clip, i == 0 ? -0.25 : 0.1);
      quantizers.push_back({clip.to(device), config});
      dy.push_back(normal(shape, 0.0, 1.0));
    }
  }

  Tensor normal(const Shape& shape, double mean, double deviation) {
    Tensor t(shape, Dtype::f32);
    kernels::fill_normal(t, mean, deviation, 29, stream++);
    return kernels::cast(t, dtype).to(device);
  }
  Deferred deferred() const {
    switch (before.function) {
      case Function::identity:
        break;
      case Function::rms_norm:
        return Deferred::rms_norm(x, weight, 1e-5);
      case Function::layer_norm:
        return Deferred::layer_norm(x, before.affine ? weight : Var(), before.affine ? bias : Var(),
                                    1e-5);
      case Function::swiglu:
        return Deferred::swiglu(x, up);
      case Function::relu:
        return Deferred::relu(x);
      case Function::gelu:
        return Deferred::gelu(x);
    }
    return Deferred(x);
  }
  uint64_t stream = 0;
};

std::vector<double> numbers(const Tensor& t) { return t.to(Device::cpu()).to_vector<double>(); }

double rms_of(const std::vector<double>& values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares / static_cast<double>(std::max<size_t>(1, values.size())));
}

/// Equal but for `others` elements of a thousand, by `tolerance` beside their size.
void expect_close(const Tensor& fast, const Tensor& plain, double tolerance, int others,
                  const std::string& what) {
  ASSERT_EQ(fast.defined(), plain.defined()) << what;
  if (!fast.defined()) return;
  const auto a = numbers(fast), b = numbers(plain);
  ASSERT_EQ(a.size(), b.size()) << what;
  const double size = rms_of(b);
  size_t apart = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool close = std::abs(a[i] - b[i]) <= tolerance * (std::abs(b[i]) + size);
    apart += close ? 0 : 1;
  }
  EXPECT_LE(apart * 1000, static_cast<size_t>(others) * a.size()) << what;
}

/// What a clip variable's gradient would be if its terms had a step's size and any sign.
double size_of_sum(const Case& c, const QuantizedTokens& tokens, size_t i) {
  double widest = 0;
  for (const double end : numbers(tokens.range)) widest = std::max(widest, 2 * end);
  const double step = widest / ((1 << c.quantizers[i].config.bits) - 1);
  return step * std::sqrt(static_cast<double>(c.x.value().count()));
}

/// `covered`: launches that are expected of the fast kernels, of two.
void compare(const Case& c, long covered, bool want_x = true) {
  const Deferred y = c.deferred();
  const long before = tuned::launches();
  const QuantizedTokens forward = quantize_tokens(y, c.quantizers);
  const TokenGradients back = quantize_tokens_backward(y, c.quantizers, forward, c.dy, want_x);
  EXPECT_EQ(tuned::launches() - before, covered);
  const TokenGradients again = quantize_tokens_backward(y, c.quantizers, forward, c.dy, want_x);
  const tuned::ReferenceKernels reference_kernels;
  const long after = tuned::launches();
  const QuantizedTokens plain = quantize_tokens(y, c.quantizers);
  const TokenGradients twin = quantize_tokens_backward(y, c.quantizers, plain, c.dy, want_x);
  EXPECT_EQ(tuned::launches(), after);
  // A norm's sums in another order move a last bit, which moves a tie. All else is the same.
  const double unit = c.dtype == Dtype::bf16 ? 1e-2 : 1e-5;
  const double tolerance = c.before.norm() ? unit : 0.0;
  const int others = c.before.norm() ? 10 : 0;
  for (size_t i = 0; i < plain.outputs.size(); ++i) {
    expect_close(forward.outputs[i], plain.outputs[i], tolerance, others, concat("value ", i));
    EXPECT_EQ(numbers(back.clips[i]), numbers(again.clips[i])) << "two runs differ";
    const double a = numbers(back.clips[i])[0], b = numbers(twin.clips[i])[0];
    EXPECT_NEAR(a, b,
                (c.before.norm() ? 0.02 * size_of_sum(c, plain, i) : 1e-4 * (1 + std::abs(b))))
        << i;
  }
  expect_close(forward.range, plain.range, tolerance, 0, "range");
  expect_close(forward.statistics, plain.statistics, 1e-6, 0, "statistics");
  expect_close(back.x, twin.x, tolerance, others, "dx");
  expect_close(back.up, twin.up, tolerance, others, "dup");
  EXPECT_EQ(back.x.defined(), want_x);
}

class TunedTokens : public ::testing::TestWithParam<Before> {
 protected:
  void SetUp() override {
    device_ = grid_device();
    if (!device_) GTEST_SKIP() << "no CUDA device: cbq_simt_tests runs this as emulated grids";
    if (!tuned::enabled()) GTEST_SKIP() << "CBQ_FAST=0";
  }
  std::optional<Device> device_;
};

TEST_P(TunedTokens, EqualTheReferenceKernel) {
  const bool norm = GetParam().norm();
  // One step and several, rows that end within one, every number of threads.
  for (const int64_t n : {512, 1032, 4096, 4104, 8192, 8200, 16384, 16392, 32768}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      if (norm && n > 8192) continue;
      SCOPED_TRACE(concat(n, " ", name_of(dtype)));
      const Shape shape{n > 8192 ? 2 : 3, n};
      compare(Case(GetParam(), shape, dtype, *device_, 1), 2);
      if (n > 4200) continue;
      compare(Case(GetParam(), shape, dtype, *device_, 3), norm ? 2 : 1);
      compare(Case(GetParam(), shape, dtype, *device_, 1), 2, false);
    }
  }
}

TEST_P(TunedTokens, LeaveWhatTheyDoNotCoverToTheReferenceKernel) {
  for (const int64_t n : {504, 516, 1023}) {
    compare(Case(GetParam(), {2, n}, Dtype::bf16, *device_, 1), 0);
  }
  compare(Case(GetParam(), {2, GetParam().norm() ? 8200 : 32776}, Dtype::bf16, *device_, 1), 0);
  compare(Case(GetParam(), {0, 512}, Dtype::bf16, *device_, 1), 0);
  compare(Case(GetParam(), {2, 512}, Dtype::f16, *device_, 1), 0);
  // A view that begins between two addresses of 16 bytes.
  Case c(GetParam(), {2, 512}, Dtype::bf16, *device_, 1);
  const Tensor shifted = Tensor::zeros({2 * 512 + 4}, Dtype::bf16, *device_).slice(4, 2 * 512 + 4);
  shifted.copy_from(c.x.value().reshape({2 * 512}));
  c.x = Var(shifted.reshape({2, 512}));
  compare(c, 0);
}

INSTANTIATE_TEST_SUITE_P(Tuned, TunedTokens,
                         ::testing::Values(Before{"identity", Function::identity, false},
                                           Before{"rms_norm", Function::rms_norm, true},
                                           Before{"layer_norm", Function::layer_norm, false},
                                           Before{"affine", Function::layer_norm, true},
                                           Before{"swiglu", Function::swiglu, false},
                                           Before{"relu", Function::relu, false},
                                           Before{"gelu", Function::gelu, false}),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace cbq
