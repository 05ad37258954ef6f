// What only shows where work is queued: captured steps, copies beside them, memory that goes from
// one to the next. The same tests run on the CPU, where everything is done at once.
#include <gtest/gtest.h>

#include "cbq/segment_feed.h"
#include "kernels/ops.h"
#include "tensor/runtime/stream_graph.h"
#include "tensor/stream_copy.h"
#include "tests/compared_device.h"
#include "tests/test_data.h"

namespace cbq::test_cuda_streams {
namespace {

std::vector<float> values(const Tensor& t) { return t.to_vector<float>(); }

class Queued : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (test::compared_device() == Device::cpu()) GTEST_SKIP() << "emulated grids are not recorded";
    if (GetParam() == std::string("cpu")) return;
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = device_from_name(GetParam());
  }
  Tensor from(const std::vector<float>& x) const {
    return Tensor::from<float>(x, {static_cast<int64_t>(x.size())}).to(device_);
  }
  Device device_;
};

INSTANTIATE_TEST_SUITE_P(Cuda, Queued, testing::Values("cpu", "cuda"),
                         [](const auto& p) { return std::string(p.param); });

TEST_P(Queued, AReplayedStepReadsWhatIsInMemoryThen) {
  const Tensor x = from({1, 2, 3}), y = from({0, 0, 0}), now({1}, Dtype::f64, device_);
  const Tensor p = from({0, 0}), g = from({1, -1});
  StepGraph graph(device_);
  const auto step = [&] {
    kernels::add_into(y, kernels::mul(kernels::scale(x, 2.0), x));
    kernels::sign_sgd_steps({{p, g, 0}}, now);
  };
  kernels::write_values(now, {1.0});
  graph.warm_up(step);
  graph.warm_up(step);
  ASSERT_TRUE(graph.capture(step)) << graph.trouble();
  EXPECT_EQ(values(y), (std::vector<float>{4, 16, 36})) << "recorded, not run";
  x.copy_from(from({0, 1, 0}));
  std::vector<Tensor> others;  // memory that a replay must leave alone
  for (int i = 0; i < 20; ++i) {
    kernels::write_values(now, {static_cast<double>(i)});
    others.push_back(from({7, 7, 7}));
    graph.replay();
  }
  EXPECT_EQ(values(y), (std::vector<float>{4, 56, 36}));
  EXPECT_EQ(values(p), (std::vector<float>{-192, 192})) << "1 + 1 + 0 + ... + 19";
  for (const Tensor& t : others) EXPECT_EQ(values(t), (std::vector<float>{7, 7, 7}));
}

TEST_P(Queued, ProductsAreCapturedAndReplayed) {
  using kernels::Trans;
  const Tensor a({96, 64}, Dtype::f32, device_), b({80, 64}, Dtype::f32, device_);
  kernels::fill_normal(a, 0.0, 1.0, 1, 1);
  kernels::fill_normal(b, 0.0, 1.0, 1, 2);
  const Tensor sum = Tensor::zeros({96, 80}, Dtype::f32, device_);
  const auto step = [&] { kernels::gemm(a, Trans::no, b, Trans::yes, sum, 1.0, 1.0); };
  step();
  const std::vector<float> once = values(sum);
  StepGraph graph(device_);
  sum.fill_zero();
  graph.warm_up(step);
  ASSERT_TRUE(graph.capture(step)) << graph.trouble();
  EXPECT_EQ(values(sum), once);
  sum.fill_zero();
  for (int i = 0; i < 3; ++i) graph.replay();
  const std::vector<float> three = values(sum);
  for (size_t i = 0; i < once.size(); ++i) ASSERT_NEAR(three[i], 3 * once[i], 1e-4) << i;
}

// A shape that nobody multiplied before, memory that nobody allocated, while the stream is
// captured.
TEST_P(Queued, ACaptureWithoutWarmUpWorksOrSaysWhy) {
  using kernels::Trans;
  const Tensor a({37, 53}, Dtype::bf16, device_), b({53, 41}, Dtype::bf16, device_);
  kernels::fill(a, 1.0);
  kernels::fill(b, 1.0);
  const Tensor c({37, 41}, Dtype::f32, device_);
  StepGraph graph(device_);
  const auto step = [&] {
    c.copy_from(kernels::cast(kernels::matmul(a, Trans::no, b, Trans::no), Dtype::f32));
  };
  if (graph.capture(step)) {
    graph.replay();
  } else {
    EXPECT_NE(graph.trouble(), "");
    step();
  }
  for (const float x : values(c)) ASSERT_EQ(x, 53.0f);
}

TEST_P(Queued, AfterARefusedCaptureTheThreadWorksOn) {
  const Tensor x = from({3, 4}), wide = from({1, 2, 3});
  for (int i = 0; i < 3; ++i) {
    StepGraph reads(device_);
    EXPECT_FALSE(reads.capture([&] { kernels::sum(x).item(); }));
    EXPECT_NE(reads.trouble(), "");
    StepGraph writes(device_);
    EXPECT_FALSE(writes.capture([&] { kernels::scale(from({1}), 2.0); }));
    StepGraph mistaken(device_);
    EXPECT_THROW(mistaken.capture([&] { kernels::add(x, wide); }), std::invalid_argument);
    EXPECT_EQ(values(kernels::scale(x, 2.0)), (std::vector<float>{6, 8}));
    StepGraph graph(device_);
    const Tensor y = from({0, 0});
    const auto step = [&] { kernels::add_into(y, x); };
    graph.warm_up(step);
    ASSERT_TRUE(graph.capture(step)) << graph.trouble();
    graph.replay();
    EXPECT_EQ(values(y), (std::vector<float>{6, 8}));
  }
}

// Segments on their way while the step before still reads its own: as in a run whose streams lie in
// page-locked memory. The product keeps a device busy for longer than the copies take.
TEST_P(Queued, StagedSegmentsArriveInTheirOrder) {
  constexpr int64_t segments = 9, tokens = 64, hidden = 256;
  const auto stream = [&](float offset) {
    const Tensor t = Tensor::page_locked({segments, tokens, hidden}, Dtype::f32);
    for (int64_t i = 0; i < t.count(); ++i) {
      t.data<float>()[i] = offset + static_cast<float>(i / (tokens * hidden));
    }
    return t;
  };
  const WindowData data{stream(0.0f), {stream(100.0f)}};
  SegmentFeed feed(data, 2, device_, true);
  const Tensor busy = Tensor::zeros({512, 512}, Dtype::f32, device_);
  std::vector<Tensor> found;
  std::vector<float> wanted;
  const auto next = [](int64_t i) {
    return std::vector<int64_t>{(5 * i) % segments, (2 * i + 3) % segments};
  };
  for (int64_t i = 0; i < 30; ++i) {
    feed.load(next(i));
    kernels::matmul(busy, kernels::Trans::no, busy, kernels::Trans::no);
    const Tensor both = kernels::add(feed.inputs(), feed.targets()[0]);
    found.push_back(kernels::column_sums(both));
    for (const int64_t s : next(i)) wanted.push_back(static_cast<float>(2 * s + 100));
    if (i % 3 != 2) feed.announce(next(i % 5 == 0 ? i + 2 : i + 1));  // now and then in vain
  }
  for (size_t i = 0; i < found.size(); ++i) {
    const float expected = tokens * (wanted[2 * i] + wanted[2 * i + 1]);
    for (const float x : values(found[i])) ASSERT_EQ(x, expected) << "step " << i;
  }
}

TEST_P(Queued, MemoryGoesBackAndComesAgain) {
  const int64_t before = memory_statistics(device_).current_bytes;
  {
    const Tensor large = Tensor::zeros({3'000'000}, Dtype::f32, device_);
    EXPECT_GE(memory_statistics(device_).current_bytes - before, 12'000'000);
  }
  EXPECT_EQ(memory_statistics(device_).current_bytes, before);
  release_cached(device_);
  const MemoryStatistics now = memory_statistics(device_);
  EXPECT_EQ(now.reserved_bytes, now.current_bytes);
  EXPECT_EQ(values(Tensor::zeros({5}, Dtype::f32, device_)), std::vector<float>(5));
}

TEST(QueuedDevice, CudaHasOneDeviceOfAThread) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  EXPECT_EQ(device_from_name("cuda:0"), Device::cuda());
  expect_error<std::invalid_argument>([] { Tensor({1}, Dtype::f32, Device::cuda(63)); },
                                      {"cuda:63", "works on cuda:0"});
}

}  // namespace
}  // namespace cbq::test_cuda_streams
