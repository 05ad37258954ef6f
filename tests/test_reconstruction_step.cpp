// The two halves of a reconstruction step: what differs between steps is put where the launches
// read it, so that they can be captured once and replayed. On the CPU the capture is a Recording
// (tensor/runtime/cpu_recording.h), which freezes arguments and addresses as a CUDA graph does.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

#include "cbq/methods.h"
#include "cbq/quantizers.h"
#include "cbq/reconstructor.h"
#include "kernels/launch/tuned_switch.h"
#include "tests/environment.h"
#include "tests/tiny_model.h"

namespace cbq::test_reconstruction_step {
namespace {

/// An environment variable for the length of a test.
/// Everything that changes from step to step: a regularizer with its schedule, a hard phase, a
/// warm-up of the rates; static ranges of activations, and an odd last batch.
Settings busy_settings(const std::string& rounding) {
  Settings s = method_settings("cbq_windows", 2, 8);
  s.rounding = rounding;
  s.batch = 2;
  s.epochs = 4;
  s.rate_rounding = 0.02;
  s.hard_phase = 0.4;
  s.warmup = 0.2;
  s.regularizer = 0.05;
  s.act_granularity = "per_tensor";
  s.act_dynamic = false;
  s.homologous = true;
  return s;
}

/// Ranges per token, which quantizers take in the norms' own passes (quant/quantize_tokens.h).
Settings per_token_settings(const std::string& rounding) {
  Settings s = busy_settings(rounding);
  s.abits = 4;
  s.act_granularity = "per_token";
  s.act_dynamic = true;
  return s;
}

/// tiny_model(2), on any device.
std::unique_ptr<Transformer> model_on(Device device) {
  std::unique_ptr<Transformer> host = tiny_model(2);
  if (device == Device::cpu()) return host;
  std::map<std::string, Tensor> values;
  host->visit("", [&](const std::string& path, Var& p) { values[path] = p.value().to(device); });
  std::unique_ptr<Transformer> model = make_model(tiny_config(2), Dtype::f32, device);
  model->visit("", [&](const std::string& path, Var& p) { p.set_value(values.at(path)); });
  return model;
}

struct Fixture {
  explicit Fixture(const Settings& s, Device device = Device::cpu())
      : settings(s), model(model_on(device)) {
    original = cache_in_memory(*model, segments);
    attach_quantizers(*model, scheduled.window, settings, original->get(0, 0, 7));
  }
  WindowData data() const {
    return {original->get(0, 0, 7), {original->get(2, 0, 7), original->get(1, 0, 7)}};
  }
  std::unique_ptr<Reconstructor> reconstructor() {
    return std::make_unique<Reconstructor>(*model, settings, scheduled, 0, data());
  }
  /// All variables' values, as they stand.
  std::vector<std::vector<float>> variables() const {
    std::vector<std::vector<float>> all;
    for (const auto& [name, value] : quantizer_state(*model, {0, 2})) {
      all.push_back(value.to_vector<float>());
    }
    return all;
  }

  Settings settings;
  std::unique_ptr<Transformer> model;
  Segments segments = tiny_segments(7, 12);
  ScheduledWindow scheduled{{0, 2}, 2};
  std::shared_ptr<ActivationCache> original;
};

struct Outcome {
  WindowReport report;
  std::vector<std::vector<float>> variables;
};

Outcome run_window(const Settings& settings, Device device = Device::cpu()) {
  Fixture f(settings, device);
  Outcome o;
  o.report = f.reconstructor()->run(nullptr);
  o.variables = f.variables();
  return o;
}

void expect_same(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.variables, b.variables);
  EXPECT_EQ(a.report.steps, b.report.steps);
  EXPECT_EQ(a.report.loss_before, b.report.loss_before);
  EXPECT_EQ(a.report.loss_relaxed, b.report.loss_relaxed);
  EXPECT_EQ(a.report.loss_hard, b.report.loss_hard);
  EXPECT_EQ(a.report.best_epoch, b.report.best_epoch);
  EXPECT_EQ(a.report.trouble, b.report.trouble);
}

class ReconstructionStep : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Schemes, ReconstructionStep,
                         testing::Values("adaround", "lora_rounding", "signround"),
                         [](const auto& p) { return std::string(p.param); });

// A number baked into a launch, or memory that an evaluation between the replays took, shows here.
TEST_P(ReconstructionStep, ReplayedIsTheSameRunToTheByte) {
  const Settings settings = busy_settings(GetParam());
  const Outcome direct = run_window(settings);
  EXPECT_LT(direct.report.loss_hard, direct.report.loss_before) << "the run must be one";
  const Environment graph("CBQ_GRAPH", "1");
  testing::internal::CaptureStderr();
  const Outcome replayed = run_window(settings);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "nothing fell back";
  expect_same(direct, replayed);
}

TEST_P(ReconstructionStep, RangesPerTokenAreReplayedToo) {
  const Settings settings = per_token_settings(GetParam());
  const Outcome direct = run_window(settings);
  {
    const Environment graph("CBQ_GRAPH", "1");
    testing::internal::CaptureStderr();
    const Outcome replayed = run_window(settings);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "nothing fell back";
    expect_same(direct, replayed);
  }
  const tuned::ReferenceKernels step_by_step;
  const Outcome plain = run_window(settings);
  EXPECT_EQ(direct.report.loss_before, plain.report.loss_before);
  EXPECT_NEAR(direct.report.loss_hard, plain.report.loss_hard, 0.05 * plain.report.loss_hard);
}

TEST_P(ReconstructionStep, SignSgdIsReplayedToo) {
  Settings settings = busy_settings(GetParam());
  settings.optimizer = "signsgd";
  const Outcome direct = run_window(settings);
  const Environment graph("CBQ_GRAPH", "1");
  expect_same(direct, run_window(settings));
}

TEST_P(ReconstructionStep, CudaReplaysWhatItRanLaunchByLaunch) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  const Settings settings = busy_settings(GetParam());
  Outcome direct;
  {
    const Environment graph("CBQ_GRAPH", "0");
    direct = run_window(settings, Device::cuda());
  }
  testing::internal::CaptureStderr();
  const Outcome replayed = run_window(settings, Device::cuda());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "nothing fell back";
  expect_same(direct, replayed);
  const Environment streams("CBQ_STREAMS", "host");
  expect_same(direct, run_window(settings, Device::cuda()));
}

// Streams by way of host memory: the same segments, in the same steps.
TEST_P(ReconstructionStep, StagedStreamsChangeNothing) {
  const Settings settings = busy_settings(GetParam());
  const Outcome direct = run_window(settings);
  const Environment streams("CBQ_STREAMS", "host");
  expect_same(direct, run_window(settings));
  const Environment graph("CBQ_GRAPH", "1");
  expect_same(direct, run_window(settings));
}

TEST_P(ReconstructionStep, TheLaunchesDependOnWhatWasPreparedAlone) {
  Settings settings = busy_settings(GetParam());
  settings.optimizer = "signsgd";  // Adam's corrections count the preparations
  Fixture f(settings), g(settings);
  const auto a = f.reconstructor(), b = g.reconstructor();
  // Twice from the same buffers and numbers is twice the same step ...
  a->prepare_step(10, {4, 1});
  a->run_step();
  a->run_step();
  // ... whatever was prepared before it.
  b->prepare_step(3, {2, 0});
  b->prepare_step(10, {4, 1});
  b->run_step();
  b->prepare_step(10, {4, 1});
  b->run_step();
  EXPECT_EQ(a->take_mean_loss(), b->take_mean_loss());
  EXPECT_EQ(f.variables(), g.variables());
  EXPECT_NE(f.variables(), Fixture(settings).variables()) << "the steps must be ones";
}

TEST_P(ReconstructionStep, LaunchesMoveNothingBetweenHostAndDevice) {
  for (const Settings& settings : {busy_settings(GetParam()), per_token_settings(GetParam())}) {
    for (const bool hard : {false, true}) {
      Fixture f(settings);
      const auto r = f.reconstructor();
      const int64_t step = hard ? 14 : 2;
      for (int i = 0; i < 3; ++i) {
        r->prepare_step(step, {4, i});
        const int64_t before = host_transfers();
        r->run_step();
        if (i == 0) continue;  // puts static ranges of activations where they are read
        EXPECT_EQ(host_transfers(), before) << "step " << i << ", hard " << hard;
      }
      EXPECT_TRUE(std::isfinite(r->take_mean_loss()));
    }
  }
}

TEST_P(ReconstructionStep, SettledStepsAskTheSystemForNothing) {
#ifdef CBQ_DEBUG
  GTEST_SKIP() << "with the sanitizers no freed block is kept";
#else
  for (const Settings& settings : {busy_settings(GetParam()), per_token_settings(GetParam())}) {
    Fixture f(settings);
    const auto r = f.reconstructor();
    for (int64_t i = 0; i < 8; ++i) {
      const int64_t before = memory_statistics(Device::cpu()).system_allocations;
      r->train_step(i, {i % 7, (i + 3) % 7}, {(i + 1) % 7, (i + 4) % 7});
      if (i >= 2) {
        EXPECT_EQ(memory_statistics(Device::cpu()).system_allocations, before) << "step " << i;
      }
    }
  }
#endif
}

/// A quantizer that looks at what it computes.
class Looking : public QuantizedTransform {
 public:
  explicit Looking(QuantizedTransform& other)
      : QuantizedTransform(std::move(other.weight_quantizer),
                           std::move(other.activation_quantizer)) {}
  Var input(const Var& x) override {
    EXPECT_FALSE(x.value().to_vector<float>().empty());
    return QuantizedTransform::input(x);
  }
};

TEST(ReconstructionStepFallback, WhatCannotBeCapturedRunsLaunchByLaunchAndSaysSo) {
  const Settings settings = busy_settings("adaround");
  const Outcome direct = run_window(settings);
  const Environment graph("CBQ_GRAPH", "1");
  Fixture f(settings);
  Linear* linear = linears_of(*f.model, {0, 2}).front().linear;
  linear->transform =
      std::make_shared<Looking>(dynamic_cast<QuantizedTransform&>(*linear->transform));
  testing::internal::CaptureStderr();
  Outcome looking;
  looking.report = f.reconstructor()->run(nullptr);
  looking.variables = f.variables();
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "cbq: steps run launch by launch, not as a CUDA graph: the step moves elements between "
            "host and device\n");
  expect_same(direct, looking);
}

TEST(SegmentFeed, BringsWhatIsAskedForAnnouncedOrNot) {
  const auto stream = [](double offset) {
    std::vector<double> values;
    for (int i = 0; i < 5 * 2 * 3; ++i) values.push_back(offset + i);
    return Tensor::from(values, {5, 2, 3}, Dtype::f32);
  };
  const WindowData data{stream(0.0), {stream(100.0), stream(200.0)}};
  for (const bool staged : {false, true}) {
    SegmentFeed feed(data, 2, Device::cpu(), staged);
    const void* place = nullptr;
    const auto expect = [&](const std::vector<int64_t>& segments) {
      feed.load(segments);
      std::vector<float> wanted;
      for (const int64_t s : segments) {
        for (int64_t j = 0; j < 6; ++j) wanted.push_back(static_cast<float>(6 * s + j));
      }
      EXPECT_EQ(feed.inputs().shape(), (Shape{2 * static_cast<int64_t>(segments.size()), 3}));
      EXPECT_EQ(feed.inputs().to_vector<float>(), wanted);
      for (float& x : wanted) x += 200.0f;
      EXPECT_EQ(feed.targets()[1].to_vector<float>(), wanted);
      if (place == nullptr) place = feed.inputs().raw();
      EXPECT_EQ(feed.inputs().raw(), place) << "always the same memory";
    };
    expect({3, 1});
    feed.announce({0, 4});
    expect({0, 4});
    feed.announce({2, 2});
    expect({1, 0});  // something else was announced
    feed.announce({});
    expect({4});  // a last batch
    EXPECT_THROW(feed.load({5}), std::invalid_argument);
    EXPECT_THROW(feed.load({-1}), std::invalid_argument);
    EXPECT_THROW(feed.load({0, 1, 2}), std::invalid_argument);
  }
}

TEST(Streams, GoToTheHostWhereTheyWouldCrowdTheDevice) {
  const DeviceMemory card{24'000, 30'000};
  EXPECT_FALSE(belongs_on_host(14'000, StreamPlace::automatic, card));
  EXPECT_TRUE(belongs_on_host(14'001, StreamPlace::automatic, card));
  EXPECT_FALSE(belongs_on_host(14'001, StreamPlace::device, card));
  EXPECT_TRUE(belongs_on_host(1, StreamPlace::host, card));
  EXPECT_FALSE(belongs_on_host(1, StreamPlace::automatic, DeviceMemory{}));
  EXPECT_EQ(stream_place(), StreamPlace::automatic);
  {
    const Environment streams("CBQ_STREAMS", "host");
    EXPECT_EQ(stream_place(), StreamPlace::host);
  }
  const Environment streams("CBQ_STREAMS", "moon");
  EXPECT_THROW(stream_place(), std::invalid_argument);
}

// As a run that goes on finds its stream: read from a file into the host's memory.
TEST(Streams, ASavedOneGoesWhereANewOneWould) {
  const Tensor saved = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {1, 2, 3});
  EXPECT_EQ(place_stream(saved, Device::cpu()).raw(), saved.raw()) << "it is there already";
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device: only the host's half was tested";
  for (const char* place : {"device", "host"}) {
    const Environment streams("CBQ_STREAMS", place);
    const Tensor placed = place_stream(saved, Device::cuda());
    EXPECT_EQ(placed.device(), make_stream(saved.shape(), Dtype::f32, Device::cuda()).device());
    EXPECT_EQ(placed.to_vector<float>(), saved.to_vector<float>());
  }
}

}  // namespace
}  // namespace cbq::test_reconstruction_step
