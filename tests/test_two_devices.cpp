// Functions beside kernels/ops.h (whose cases test_ops.cpp goes through) refuse operands of two
// devices. A second device is host memory that counts as one.
#include "autograd/functions.h"
#include "kernels/attention/varlen_attention.h"
#include "quant/activation_kernels.h"
#include "quant/grid_scheme.h"
#include "quant/quantize_tokens.h"
#include "quant/rounding.h"
#include "quant/transforms/local/arithmetic.h"
#include "tests/rounding_contract.h"
#include "tests/test_data.h"

namespace cbq::test::test_two_devices {
namespace {

constexpr Device elsewhere{Device::Kind::cpu, 1};

Tensor ones(Shape shape, Dtype dtype = Dtype::f32, Device device = Device::cpu()) {
  Tensor t(std::move(shape), dtype, device);
  kernels::fill(t, 1.0);
  return t;
}

void expect_refused(const char* op, const std::function<void()>& f) {
  SCOPED_TRACE(op);
  expect_error<std::invalid_argument>(f, {op, "device"});
}

TEST(TwoDevices, HaveNamesAndMemoryOfTheirOwn) {
  EXPECT_EQ(name_of(elsewhere), "cpu:1");
  EXPECT_EQ(name_of(Device::cpu()), "cpu");
  const Tensor t = ones({3}, Dtype::f32, elsewhere);
  EXPECT_EQ(t.to(Device::cpu()).to_vector<float>(), (std::vector<float>{1, 1, 1}));
  expect_refused("add", [&] { kernels::add(t, ones({3})); });
}

TEST(TwoDevices, QuantizersOfActivations) {
  ActivationConfig config;
  config.bits = 4;
  const Tensor x = ones({2, 8}), clip = ones({1}), far = ones({1}, Dtype::f32, elsewhere);
  const ActivationRange none, near{ones({1}), ones({1})};
  expect_refused("quantize_activation", [&] { quantize_activation(x, far, none, config); });
  expect_refused("quantize_activation", [&] {
    quantize_activation(x, clip, {far, near.high}, config);
  });
  expect_refused("quantize_activation", [&] {
    quantize_activation(x, clip, {near.low, far}, config);
  });
  expect_refused("quantize_activation",
                 [&] { quantize_activation_backward(x, clip, none, config, x.to(elsewhere)); });
  const Var input(x);
  expect_refused("quantize_tokens", [&] { quantize_tokens(Deferred(input), {{far, config}}); });
  const Var weight(ones({8}, Dtype::f32, elsewhere)), bias(ones({8}));
  expect_refused("quantize_tokens", [&] {
    quantize_tokens(Deferred(&ag::rms_norm, input, weight, 1e-5), {{clip, config}});
  });
  expect_refused("quantize_tokens", [&] {
    quantize_tokens(Deferred(&ag::layer_norm, input, bias, weight, 1e-5), {{clip, config}});
  });
  const std::vector<TokenQuantizer> quantizers = {{clip, config}};
  const Deferred norm = Deferred(&ag::rms_norm, input, bias, 1e-5);
  const QuantizedTokens forward = quantize_tokens(norm, quantizers);
  const auto backward = [&](const QuantizedTokens& kept) {
    quantize_tokens_backward(norm, quantizers, kept, {x}, true);
  };
  backward(forward);
  QuantizedTokens moved = forward;
  moved.range = forward.range.to(elsewhere);
  expect_refused("quantize_tokens", [&] { backward(moved); });
  moved = forward;
  moved.statistics = forward.statistics.to(elsewhere);
  expect_refused("quantize_tokens", [&] { backward(moved); });
}

TEST(TwoDevices, QuantizersOfWeights) {
  const Tensor s = ones({2, 1}), far = s.to(elsewhere);
  for (const std::string& name : grid_schemes().names()) {
    if (name == "fixed") continue;
    const auto grid = grid_schemes().make(name);
    const auto variables = grid->start(ones({2, 8}), {s, s, 4, 8}, {});
    const std::vector<Tensor> near(variables.size(), s), away(variables.size(), far);
    expect_refused(name.c_str(), [&] { grid->values(away); });
    expect_refused(name.c_str(), [&] { grid->gradients(near, {s, s}, {far, s}); });
  }
  expect_refused("moved_zero_point", [&] { moved_zero_point(s, far, 4); });
  expect_refused("moved_zero_point", [&] { moved_zero_point_gradient(s, s, 4, far); });
  for (const std::string& name : rounding_schemes().names()) {
    const auto scheme = rounding_schemes().make(name);
    if (scheme->math() == nullptr) continue;  // its own business
    for (const auto p : {Parameterization::dense, Parameterization::low_rank}) {
      const RoundingPass pass = make_pass(*scheme, p, Dtype::f32);
      for (Tensor RoundingPass::*operand :
           {&RoundingPass::scale, &RoundingPass::zero_point, &RoundingPass::dense,
            &RoundingPass::a1, &RoundingPass::a2, &RoundingPass::unit}) {
        if (!(pass.*operand).defined()) continue;
        RoundingPass moved = pass;
        moved.*operand = (pass.*operand).to(elsewhere);
        expect_refused(name.c_str(), [&] { scheme->forward(moved); });
        expect_refused(name.c_str(), [&] { scheme->codes(moved); });
        expect_refused(name.c_str(), [&] { scheme->backward(moved, pass.w, {}); });
      }
      expect_refused(name.c_str(), [&] { scheme->backward(pass, pass.w.to(elsewhere), {}); });
    }
  }
}

TEST(TwoDevices, PreProcessing) {
  const Tensor x = ones({4, 8}), low = ones({4}), far = low.to(elsewhere);
  expect_refused("clamp_groups", [&] { clamp_groups(x, {far, far}); });
  expect_refused("clamp_groups", [&] { clamp_groups(x, {low, far}); });
  expect_refused("count_outside", [&] { count_outside(x, {far, far}); });
  const Tensor column = ones({8}, Dtype::f64), far_column = column.to(elsewhere);
  expect_refused("widen_column_range", [&] { widen_column_range(x, far_column, column); });
  expect_refused("widen_column_range", [&] { widen_column_range(x, column, far_column); });
}

TEST(TwoDevices, Attention) {
  const Tensor q = ones({4, 8}), slopes = ones({2}, Dtype::f32, elsewhere);
  const VarlenRows rows({{0, {4}}}, Device::cpu());
  expect_refused("varlen_attention",
                 [&] { kernels::varlen_attention(q, q, q, rows, 2, 2, slopes); });
  expect_refused("varlen_attention_rows",
                 [&] { kernels::varlen_attention_rows(q, q, q, rows, 2, 2, slopes); });
  expect_refused("varlen_attention",
                 [&] { kernels::varlen_attention(q, q.to(elsewhere), q, rows, 2, 2, Tensor()); });
  const kernels::AttentionHeads heads{1, 2, 2};
  kernels::AttentionResult forward = kernels::attention(q, q, q, heads);
  expect_refused("attention", [&] { kernels::attention(q, q, q, heads, slopes); });
  forward.log_sum = forward.log_sum.to(elsewhere);
  expect_refused("attention_backward",
                 [&] { kernels::attention_backward(q, q, q, forward, q, heads); });
}

}  // namespace
}  // namespace cbq::test::test_two_devices
