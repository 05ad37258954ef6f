// What a block says of its linears' inputs, and what their transforms make of it; whole models with
// quantizers in one pass with what stands before them, and step by step.
#include <gtest/gtest.h>

#include "autograd/functions.h"
#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "kernels/launch/tuned_switch.h"
#include "quant/quantized_linear.h"
#include "tests/fixtures.h"
#include "tests/token_quantizers.h"

namespace cbq::test::test_forward_each {
namespace {

/// Floating point: passes its input on, and counts.
class Counting : public LinearTransform {
 public:
  Var weight(const Var& w) override { return w; }
  Var input(const Var& x) override {
    ++inputs;
    return x;
  }
  int inputs = 0;
};

/// A quantizer that does more to its input.
class Doubling : public QuantizedTransform {
 public:
  using QuantizedTransform::QuantizedTransform;
  Var input(const Var& x) override { return ag::scale(QuantizedTransform::input(x), 2.0); }
};

TEST(ForwardEach, AsksTheTransformsThatWantToBeAsked) {
  const Var x(normal({3, 16}, 0.0, 1.0, 1, Dtype::f32));
  Linear a(16, 4, false, Dtype::f32, Device::cpu()), b(16, 4, true, Dtype::f32, Device::cpu());
  for (Linear* l : {&a, &b}) {
    l->visit("", [&](const std::string&, Var& p) { kernels::fill_normal(p.value(), 0, 1, 3, 4); });
  }
  const auto quantized = [&](int bits) {
    return std::make_shared<QuantizedTransform>(
        nullptr, std::make_unique<ActivationQuantizer>(config_of(bits), Device::cpu(), "layer"));
  };
  const auto each_is_forward = [&] {
    const Deferred y = Deferred(&ag::gelu, x);
    const auto [u, v] = forward_each({&a, &b}, y);
    expect_same(u.value(), a.forward(y.value()).value(), "a");
    expect_same(v.value(), b.forward(y.value()).value(), "b");
    return std::pair(u.value(), v.value());
  };
  each_is_forward();
  a.transform = quantized(4);
  each_is_forward();
  b.transform = quantized(8);
  const auto [u, v] = each_is_forward();
  auto counting = std::make_shared<Counting>();
  b.transform = counting;
  each_is_forward();
  EXPECT_EQ(counting->inputs, 2);
  b.transform = std::make_shared<Doubling>(
      nullptr, std::make_unique<ActivationQuantizer>(config_of(8), Device::cpu(), "layer"));
  const auto [u2, v2] = each_is_forward();
  expect_same(u, u2, "a");
  EXPECT_NE(v.to_vector<float>(), v2.to_vector<float>());
}

// ---- whole models ----------------------------------------------------------------------------

/// Output of all blocks, and gradients of their input and of all clip variables.
std::vector<Tensor> run_model(const std::string& name, Dtype dtype, const Settings& settings) {
  const auto model = load_model(fixture(name), dtype, Device::cpu());
  const Window window{0, model->block_count()};
  attach_quantizers(*model, window, settings, Tensor());
  const ExpectedResults expected(name);
  Var x;
  {
    const NoGrad none;
    x = Var(model->embed(expected.inputs, expected.sequence).value(), true);
  }
  Tape tape;
  Var h = x;
  for (int64_t b = 0; b < model->block_count(); ++b) {
    h = model->block(b).forward(h, expected.sequence);
  }
  const Tensor output = h.value();
  tape.backward(h, normal(output.shape(), 0.0, 1.0, 3, dtype));
  std::vector<double> clips;
  for (const WindowLinear& l : linears_of(*model, window)) {
    EXPECT_NE(l.quantizers(), nullptr) << l.path;
    clips.push_back(l.quantizers()->activation_quantizer->variables()[0].grad().item());
  }
  const auto count = static_cast<int64_t>(clips.size());
  return {output, x.grad(), Tensor::from(clips, {count}, Dtype::f64)};
}

class QuantizeTokensInModels : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizeTokensInModels, GivesTheSameValuesAndGradients) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const bool symmetric : {false, true}) {
      SCOPED_TRACE(concat(name_of(dtype), symmetric ? ", symmetric" : ""));
      Settings settings = method_settings("cbq_windows", 4, 4);
      settings.act_symmetric = symmetric;
      const std::vector<Tensor> fused = run_model(GetParam(), dtype, settings);
      const tuned::ReferenceKernels plain;
      const std::vector<Tensor> steps = run_model(GetParam(), dtype, settings);
      expect_same(fused[0], steps[0], "output");
      expect_close(fused[1], steps[1], 3 * tolerance_of(dtype), "gradient of the input");
      expect_close(fused[2], steps[2], 3 * tolerance_of(dtype), "gradients of clip variables");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, QuantizeTokensInModels, ::testing::ValuesIn(fixture_names()),
                         [](const auto& one) { return test_name(one.param); });

}  // namespace
}  // namespace cbq::test::test_forward_each
