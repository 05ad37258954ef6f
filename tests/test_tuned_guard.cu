// The guard of the tuned kernels: on a GPU where there is one, and as emulated grids in
// cbq_simt_tests. In a program that has neither, what needs kernels is skipped.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include "kernels/attention/attention_guard.h"
#include "kernels/attention/fused_attention.h"
#include "kernels/launch/tuned_guard.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/ops.h"
#include "quant/activation_quantizer.h"
#include "quant/rounding.h"
#include "quant/rounding_guard.h"
#include "quant/token_guard.h"
#include "tensor/runtime/notice.h"
#include "tests/grid_device.h"

namespace cbq {
namespace {

using tuned::Agreement;

Tensor numbers(std::initializer_list<double> values) {
  return Tensor::from<double>(std::vector<double>(values), {static_cast<int64_t>(values.size())},
                              Dtype::f64);
}

TEST(TunedGuard, RelativeDifferenceIsItsFormula) {
  // Errors 0.3 and -0.4 beside a result of norm 5.
  EXPECT_NEAR(tuned::relative_difference(numbers({3.3, 3.6}), numbers({3, 4})), 0.1, 1e-12);
  EXPECT_EQ(tuned::relative_difference(numbers({0, 0}), numbers({0, 0})), 0.0);
  EXPECT_EQ(tuned::relative_difference(Tensor(), Tensor()), 0.0);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(tuned::relative_difference(numbers({1}), numbers({0})), infinity);
  EXPECT_EQ(tuned::relative_difference(numbers({1}), Tensor()), infinity);
  EXPECT_EQ(tuned::relative_difference(Tensor(), numbers({1})), infinity);
  EXPECT_EQ(tuned::relative_difference(numbers({1}), numbers({1, 1})), infinity);
  EXPECT_TRUE(std::isnan(tuned::relative_difference(numbers({NAN, 1}), numbers({1, 1}))));
  EXPECT_FALSE((Agreement{"k", NAN, 1.0, ""}.holds()));
}

// A kernel that is compared on the CPU: the guard itself needs no grid.
TEST(TunedGuard, ComparesOnceAndTellsWhatDiffers) {
  static int calls = 0;
  static const bool known =
      tuned::guard({"test: wrong by a tenth", 0.01, [](Device) { return ++calls, 0.1; }}) &&
      tuned::guard({"test: right", 0.01, [](Device) { return 0.001; }}) &&
      tuned::guard(
          {"test: throws", 0.01, [](Device) -> double { throw std::runtime_error("no"); }});
  ASSERT_TRUE(known);
  const Device device{Device::Kind::cpu, 1};  // nothing else is compared here
  const NoticeRecorder notices;
  EXPECT_FALSE(tuned::trusted("test: wrong by a tenth", device));
  EXPECT_FALSE(tuned::trusted("test: wrong by a tenth", device));
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(tuned::trusted("test: right", device));
  EXPECT_FALSE(tuned::trusted("test: throws", device));
  const auto lines = notices.lines();
  ASSERT_EQ(lines.size(), 2u);
  for (const char* part : {"'test: wrong by a tenth'", "by 0.1", "0.01 is allowed", "cpu:1",
                           "reference kernel runs instead"}) {
    EXPECT_NE(lines[0].find(part), std::string::npos) << part << " in " << lines[0];
  }
  EXPECT_NE(lines[1].find("cannot be compared with its reference kernel (no)"), std::string::npos)
      << lines[1];
  EXPECT_FALSE(tuned::trusted("test: wrong by a tenth", Device{Device::Kind::cpu, 2}));
  EXPECT_EQ(calls, 2) << "another device is compared anew";
  EXPECT_THROW(tuned::guard({"test: right", 0.01, [](Device) { return 0.0; }}),
               std::invalid_argument);
  EXPECT_THROW(tuned::trusted("test: unknown", device), std::invalid_argument);
}

class TunedGuardOnAGrid : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!grid_device()) GTEST_SKIP() << "no GPU, and not the emulator";
    if (!tuned::enabled()) GTEST_SKIP() << "CBQ_FAST=0";
  }
  static std::optional<Device> grid_device() { return test::grid_device(); }
};

TEST_F(TunedGuardOnAGrid, EveryKernelAgrees) {
  std::vector<std::string> expected = {"attention, heads of 64", "attention, heads of 80",
                                       "attention, heads of 96", "attention, heads of 128",
                                       detail::token_kernel_name};
  for (const char* scheme : {"adaround", "direct", "lora_rounding", "nearest", "signround"}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16})
      expected.push_back(detail::rounding_kernel_name(scheme, dtype));
  }
  const NoticeRecorder notices;  // of the kernels of another test
  const auto all = tuned::compare_all(*grid_device());
  for (const std::string& name : expected) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Agreement& a) { return a.kernel == name; });
    ASSERT_NE(found, all.end()) << name;
    EXPECT_TRUE(found->holds()) << name << ": " << found->difference << " " << found->error;
    EXPECT_GT(found->tolerance, 0.0) << name;
  }
}

// A comparison of the reference kernel with itself would find no fault.
TEST_F(TunedGuardOnAGrid, ComparisonsRunTheTunedKernels) {
  const Device device = *grid_device();
  const auto launches_of = [](const auto& comparison) {
    const long before = tuned::launches();
    comparison();
    return tuned::launches() - before;
  };
  // Every scheme: a forward and a backward pass for two layouts, four forms of variables, one
  // start and one phase at least.
  EXPECT_GE(launches_of([&] { detail::rounding_difference("signround", Dtype::f32, device); }), 16);
  if (tuned::attention_form() != tuned::AttentionForm::fused) return;
  EXPECT_GE(launches_of([&] { tuned::attention_difference(64, device); }), 4);
}

/// Makes a kernel disagree while it lives.
class Distrust {
 public:
  Distrust(const std::string& kernel, Device device) : kernel_(kernel), device_(device) {
    tuned::set_agreement({kernel, 1.0, 1e-5, ""}, device);
  }
  ~Distrust() { tuned::set_agreement({kernel_, 0.0, 1e-5, ""}, device_); }
  Distrust(const Distrust&) = delete;
  Distrust& operator=(const Distrust&) = delete;

 private:
  std::string kernel_;
  Device device_;
};

TEST_F(TunedGuardOnAGrid, WhatDiffersRunsItsReferenceKernel) {
  const Device device = *grid_device();
  const auto launched = [](const auto& work) {
    const long before = tuned::launches();
    work();
    return tuned::launches() - before;
  };
  const Tensor q = Tensor::zeros({9, 64}, Dtype::bf16, device);
  const auto attend = [&] { kernels::attention(q, q, q, {1, 1, 1}); };
  RoundingPass pass;
  pass.bits = 4;
  pass.w = Tensor::zeros({4, 16}, Dtype::f32, device);
  pass.scale = Tensor::from<double>({1, 1, 1, 1}, {4, 1}, Dtype::f32).to(device);
  pass.zero_point = Tensor::from<double>({8, 8, 8, 8}, {4, 1}, Dtype::f32).to(device);
  pass.group = 16;
  pass.start = Start::zero;
  const auto scheme = rounding_schemes().make("nearest");
  const auto round = [&] { scheme->forward(pass); };
  const long fused = tuned::attention_form() == tuned::AttentionForm::fused ? 1 : 0;
  EXPECT_EQ(launched(attend), fused);
  EXPECT_EQ(launched(round), 1);
  {
    const Distrust attention("attention, heads of 64", device);
    const Distrust rounding("nearest f32", device);
    EXPECT_EQ(launched(attend), 0);
    EXPECT_EQ(launched(round), 0);
  }
  EXPECT_EQ(launched(attend), fused);
  EXPECT_EQ(launched(round), 1);

  const ActivationQuantizer quantizer(ActivationConfig{.bits = 4}, device, "layer");
  const Deferred y{Var(Tensor::zeros({3, 16}, Dtype::f32, device))};
  EXPECT_EQ(quantizer.inputs(y, {&quantizer}).size(), 1u);
  const Distrust tokens(detail::token_kernel_name, device);
  EXPECT_TRUE(quantizer.inputs(y, {&quantizer}).empty()) << "goes step by step";
}

}  // namespace
}  // namespace cbq
