// One window: the loss falls, the best parameters stay, trouble is survived and said.
#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "cbq/reconstructor.h"
#include "tests/test_data.h"
#include "tests/tiny_model.h"

namespace cbq::test_reconstructor {
namespace {

Settings small_settings() {
  Settings s = method_settings("cbq_windows", 2, 16);
  s.batch = 2;
  s.epochs = 3;
  s.rate_rounding = 0.02;
  return s;
}

/// A window over both blocks of a two-block model.
struct Fixture {
  explicit Fixture(const Settings& s, const std::function<void(Transformer&)>& change = nullptr)
      : settings(s) {
    if (change) change(*model);
    original = cache_in_memory(*model, segments);
    attach_quantizers(*model, scheduled.window, settings, original->get(0, 0, 8));
  }
  WindowData data() const { return {original->get(0, 0, 8), {original->get(2, 0, 8)}}; }
  Reconstructor reconstructor() { return Reconstructor(*model, settings, scheduled, 0, data()); }

  Settings settings;
  std::unique_ptr<Transformer> model = tiny_model(2);
  Segments segments = tiny_segments(8, 12);
  ScheduledWindow scheduled{{0, 2}, 2};
  std::shared_ptr<ActivationCache> original;
};

TEST(Loss, EqualsItsFormula) {
  const Tensor p = Tensor::from<float>({1, 2, 0.5f, -1}, {2, 2});
  const Tensor t = Tensor::from<float>({0, 2, 1, 1}, {2, 2});
  const auto kl = [](double t0, double t1, double p0, double p1) {
    const double zt = std::exp(t0) + std::exp(t1), zp = std::exp(p0) + std::exp(p1);
    return std::exp(t0) / zt * (t0 - std::log(zt) - p0 + std::log(zp)) +
           std::exp(t1) / zt * (t1 - std::log(zt) - p1 + std::log(zp));
  };
  const double l2 = (1.0 + 4.25) / 2, k = (kl(0, 2, 1, 2) + kl(1, 1, 0.5, -1)) / 2;
  EXPECT_NEAR(reconstruction_loss(p, {t}, {1.0, kernels::L2Form::sum, 0.0}, false).mean.item(), l2,
              1e-6);
  EXPECT_NEAR(reconstruction_loss(p, {t}, {0.0, kernels::L2Form::sum, 1.0}, false).mean.item(), k,
              1e-6);
  EXPECT_NEAR(reconstruction_loss(p, {t}, {3.0, kernels::L2Form::sum, 2.0}, false).mean.item(),
              3 * l2 + 2 * k, 1e-5);
  // Homologous: the mean over two targets, here one of them equal to the prediction.
  EXPECT_NEAR(reconstruction_loss(p, {t, p}, {1.0, kernels::L2Form::sum, 0.0}, true).mean.item(),
              l2 / 2, 1e-6);
  const Tensor g = reconstruction_loss(p, {t, p}, {1.0, kernels::L2Form::sum, 0.0}, true).gradient;
  EXPECT_NEAR(g.to_vector<float>()[3], 2 * -2.0 / 4, 1e-6);
}

TEST(Loss, ReductionsDifferByTheWidthAndTheRoot) {
  Settings s;
  s.l2 = "mean";
  EXPECT_EQ(loss_config(s, 16).l2_weight, 1.0 / 16);
  s.l2 = "norm";
  EXPECT_EQ(loss_config(s, 16).l2, kernels::L2Form::norm);
}

// A token of massive activations decides the summed square and weighs as much as any other in the
// relative one.
TEST(Loss, RelativeGivesTokensOfAllSizesOneWeight) {
  const Tensor t = Tensor::from<float>({1, -2, 1000, -2000, 0, 0}, {3, 2});
  const Tensor p = Tensor::from<float>({1.5, -2, 1500, -2000, 7, 0}, {3, 2});
  Settings s;
  s.l2 = "relative";
  s.kl_weight = 0.0;
  const LossValue found = reconstruction_loss(p, {t}, loss_config(s, 2), true);
  // 2 (1/2)^2 / (1 + 4) of both tokens; the target of zeros weighs nothing.
  EXPECT_NEAR(found.mean.item(), 2 * 0.1 / 3, 1e-7);
  const auto g = found.gradient.to_vector<float>();
  EXPECT_NEAR(g[0], 2 * 2 * 0.5 / 5 / 3, 1e-7);
  EXPECT_NEAR(g[2], 2 * 2 * 500.0 / 5e6 / 3, 1e-9);
  EXPECT_EQ(g[4], 0.0f);
}

TEST(Reconstructor, OrderIsAPermutationAndDiffersByEpoch) {
  const std::vector<int64_t> a = segment_order(100, 0, 0, 1);
  EXPECT_EQ(std::set<int64_t>(a.begin(), a.end()).size(), 100u);
  EXPECT_EQ(a, segment_order(100, 0, 0, 1));
  EXPECT_NE(a, segment_order(100, 0, 0, 2));
  EXPECT_NE(a, segment_order(100, 0, 1, 1));
  EXPECT_NE(a, segment_order(100, 1, 0, 1));
}

TEST(Reconstructor, LowersTheLossOfEveryScheme) {
  for (const std::string& scheme : rounding_schemes().names()) {
    SCOPED_TRACE(scheme);
    Settings s = small_settings();
    s.rounding = scheme;
    Fixture f(s);
    const WindowReport report = f.reconstructor().run(nullptr);
    // Scales alone gain little.
    EXPECT_LT(report.loss_hard, (s.rounding == "nearest" ? 1.0 : 0.95) * report.loss_before);
    EXPECT_EQ(report.steps, 12);
    EXPECT_GT(report.best_epoch, 0);
    EXPECT_TRUE(report.trouble.empty()) << report.trouble;
  }
}

/// The same function with weights 64 times as large in one layer and as small in the next. Powers
/// of two, so that every product has the same bits.
void rescale(Transformer& model) {
  for (const auto& block : model.blocks) {
    for (auto& [name, linear] : block->linears()) {
      const bool larger = name == "self_attn.v_proj" || name == "mlp.down_proj";
      if (!larger && name != "self_attn.o_proj" && name != "mlp.up_proj") continue;
      linear->weight.set_value(kernels::scale(linear->weight.value(), larger ? 64.0 : 1.0 / 64));
    }
  }
}

// What a scheme learns must not depend on how large weights are: rates are in units of the scale.
TEST(Reconstructor, LearnsTheSameForWeightsOfAnySize) {
  for (const std::string& scheme : rounding_schemes().names()) {
    for (const char* parameterization : {"default", "low_rank"}) {
      const bool none =
          rounding_schemes().make(scheme)->default_parameterization() == Parameterization::none;
      if (none && parameterization != std::string("default")) continue;
      SCOPED_TRACE(concat(scheme, " ", parameterization));
      Settings s = small_settings();
      s.rounding = scheme;
      s.parameterization = parameterization;
      s.hard_phase = 0.5;
      s.regularizer = 0.01;
      s.rate_rounding = 0.05;
      Fixture plain(s), other(s, rescale);
      const WindowReport a = plain.reconstructor().run(nullptr);
      const WindowReport b = other.reconstructor().run(nullptr);
      EXPECT_EQ(a.loss_before, b.loss_before);
      EXPECT_EQ(a.loss_hard, b.loss_hard);
      EXPECT_LT(a.loss_hard, a.loss_before);
      for (Fixture* f : {&plain, &other}) harden_blocks(*f->model, {0, 2});
      const auto expected = quantizer_state(*plain.model, {0, 2});
      for (const auto& [name, value] : quantizer_state(*other.model, {0, 2})) {
        if (!name.ends_with("codes")) continue;
        EXPECT_EQ(value.to_vector<int>(), expected.at(name).to_vector<int>()) << name;
      }
    }
  }
}

TEST(Reconstructor, KeepsTheBestParameters) {
  Settings s = small_settings();
  s.rate_rounding = 3.0;  // jumps about
  s.rate_scale = 0.3;
  Fixture f(s);
  Reconstructor r = f.reconstructor();
  const WindowReport report = r.run(nullptr);
  EXPECT_LE(report.loss_hard, report.loss_before);
  EXPECT_DOUBLE_EQ(r.evaluate(true), report.loss_hard);  // what is kept is what is reported
}

TEST(Reconstructor, NanStopsRestoresAndSaysSo) {
  Settings s = small_settings();
  s.rate_scale = 1e4;  // e^1e4
  Fixture f(s);
  Reconstructor r = f.reconstructor();
  const WindowReport report = r.run(nullptr);
  EXPECT_NE(report.trouble.find("restored"), std::string::npos) << report.trouble;
  EXPECT_EQ(report.best_epoch, 0);
  EXPECT_DOUBLE_EQ(report.loss_hard, report.loss_before);
  EXPECT_DOUBLE_EQ(r.evaluate(true), report.loss_before);
}

TEST(Reconstructor, RelaxedRoundingStartsAtTheOriginalWeights) {
  Settings s = small_settings();
  s.rounding = "adaround";
  s.wbits = 4;
  s.scale_search = "min_max";  // clips nothing but what the zero point's rounding costs
  Fixture f(s);
  Reconstructor r = f.reconstructor();
  EXPECT_LT(r.evaluate(false), 0.2 * r.evaluate(true));
}

TEST(Reconstructor, HardPhaseCoversTheLastFractionOfTheSteps) {
  // Without a hard phase, hardening at the end throws away what the relaxed weights gained.
  Settings s = small_settings();
  s.rounding = "adaround";
  s.keep = "last";
  s.epochs = 4;
  s.rate_rounding = 0.05;
  double hard[2];
  for (const double phase : {0.0, 0.5}) {
    s.hard_phase = phase;
    Fixture f(s);
    const WindowReport report = f.reconstructor().run(nullptr);
    hard[phase > 0] = report.loss_hard;
    EXPECT_NE(report.loss_relaxed, report.loss_hard);
  }
  EXPECT_LT(hard[1], hard[0]);
}

TEST(Reconstructor, OverlapAloneLearnsRounding) {
  Settings s = small_settings();
  s.rounding_blocks = "overlap";
  s.grid = "fixed";
  Fixture f(s);
  f.scheduled.finishes = 1;
  const auto before = quantizer_state(*f.model, {0, 2});
  f.reconstructor().run(nullptr);
  for (const auto& [name, value] : quantizer_state(*f.model, {0, 2})) {
    if (!name.ends_with("dense")) continue;
    const bool same = value.to_vector<float>() == before.at(name).to_vector<float>();
    EXPECT_EQ(same, name.find("layers.0.") != std::string::npos) << name;
  }
}

TEST(Reconstructor, StepsDoNotGrowMemory) {
  Settings s = small_settings();
  s.epochs = 6;
  Fixture f(s);
  std::vector<int64_t> bytes;
  f.reconstructor().run(
      [&](int64_t) { bytes.push_back(memory_statistics(Device::cpu()).current_bytes); });
  ASSERT_EQ(bytes.size(), 24u);
  for (size_t i = 2; i < bytes.size(); ++i) EXPECT_LE(bytes[i], bytes[1] + bytes[1] / 2);
  EXPECT_EQ(bytes[23], bytes[22]);
}

}  // namespace
}  // namespace cbq::test_reconstructor
