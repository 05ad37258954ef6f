// What a captured step rests on, as far as a CPU can show it: memory that nobody else gets,
// launches with frozen arguments (tensor/runtime/cpu_recording.h), copies on a queue of their own,
// and counters that show a step that would make a GPU wait.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "kernels/ops.h"
#include "tensor/runtime/device_profile.h"
#include "tensor/runtime/memory_pool.h"
#include "tensor/runtime/stream_graph.h"
#include "tensor/stream_copy.h"

namespace cbq::test_stream_graph {
namespace {

std::vector<float> values(const Tensor& t) { return t.to_vector<float>(); }

TEST(MemoryPool, KeepsItsBlocksFromOthers) {
  MemoryPool pool(Device::cpu());
  const void* inside = nullptr;
  {
    const MemoryPool::Use use(pool);
    const Tensor t({1000}, Dtype::f32);
    inside = t.raw();
  }
  const Tensor outside({1000}, Dtype::f32);
  EXPECT_NE(outside.raw(), inside) << "the block is the pool's, free as it is";
  {
    const MemoryPool::Use use(pool);
    EXPECT_EQ(Tensor({1000}, Dtype::f32).raw(), inside) << "the pool hands it out again";
  }
  EXPECT_EQ(MemoryPool::current(), nullptr);
  EXPECT_GE(pool.bytes(), 4000);
}

TEST(MemoryPool, GivesEverythingBackAtItsEndOrLater) {
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  Tensor survivor;
  {
    MemoryPool pool(Device::cpu());
    const MemoryPool::Use use(pool);
    survivor = Tensor::zeros({3000}, Dtype::f32);
    const Tensor gone({5000}, Dtype::f32);
  }
  const int64_t after = memory_statistics(Device::cpu()).current_bytes;
  EXPECT_EQ(after - before, block_size(12000)) << "the tensor that is left";
  EXPECT_EQ(values(survivor)[2999], 0.0f);
  survivor = Tensor();
  EXPECT_EQ(memory_statistics(Device::cpu()).current_bytes, before);
}

TEST(MemoryPool, CountsWhatItHoldsAsUsed) {
  reset_peak(Device::cpu());
  const int64_t before = memory_statistics(Device::cpu()).current_bytes;
  MemoryPool pool(Device::cpu());
  {
    const MemoryPool::Use use(pool);
    const Tensor t({4096}, Dtype::f32);
  }
  EXPECT_EQ(memory_statistics(Device::cpu()).current_bytes - before, block_size(4 * 4096));
}

/// y += c x, c from memory: a step in small.
struct Step {
  Tensor x = Tensor::from<float>({1, 2, 3}, {3});
  Tensor y = Tensor::zeros({3}, Dtype::f32);
  void operator()() const {
    const Tensor twice = kernels::scale(x, 2.0);
    const Tensor product = kernels::mul(twice, x);
    kernels::add_into(y, product);
  }
};

TEST(StepGraph, CaptureRunsNothingAndReplaysReadMemory) {
  const Step step;
  StepGraph graph(Device::cpu());
  graph.warm_up(step);
  EXPECT_EQ(values(step.y), (std::vector<float>{2, 8, 18}));
  ASSERT_TRUE(graph.capture(step)) << graph.trouble();
  EXPECT_EQ(values(step.y), (std::vector<float>{2, 8, 18})) << "recorded, not run";
  graph.replay();
  EXPECT_EQ(values(step.y), (std::vector<float>{4, 16, 36}));
  step.x.copy_from(Tensor::from<float>({0, 1, 0}, {3}));
  graph.replay();
  EXPECT_EQ(values(step.y), (std::vector<float>{4, 18, 36})) << "the input at hand, not the first";
}

TEST(StepGraph, OthersMayAllocateBetweenReplays) {
  const Step step;
  StepGraph graph(Device::cpu());
  graph.warm_up(step);
  ASSERT_TRUE(graph.capture(step));
  step.y.fill_zero();
  std::vector<Tensor> others;
  for (int i = 0; i < 50; ++i) {
    others.push_back(Tensor::from<float>({7, 7, 7}, {3}));
    graph.replay();
  }
  for (const Tensor& t : others) EXPECT_EQ(values(t), (std::vector<float>{7, 7, 7}));
  EXPECT_EQ(values(step.y), (std::vector<float>{100, 400, 900}));
}

TEST(StepGraph, WhatHasSettledAsksNobodyForMemory) {
  const Step step;
  StepGraph graph(Device::cpu());
  graph.warm_up(step);
  const int64_t bytes = graph.memory().bytes();
  ASSERT_TRUE(graph.capture(step));
  EXPECT_EQ(graph.memory().bytes(), bytes) << "the warm-up made all that the capture needs";
  const int64_t calls = memory_statistics(Device::cpu()).allocations;
  graph.replay();
  EXPECT_EQ(memory_statistics(Device::cpu()).allocations, calls);
}

TEST(StepGraph, RefusesStepsThatTalkToTheHost) {
  const Tensor x = Tensor::from<float>({3}, {1});
  StepGraph reads(Device::cpu());
  EXPECT_FALSE(reads.capture([&] { static_cast<void>(x.item()); }));
  EXPECT_NE(reads.trouble().find("between host and device"), std::string::npos) << reads.trouble();
  EXPECT_FALSE(reads.captured());
  EXPECT_THROW(reads.replay(), std::invalid_argument);
  StepGraph writes(Device::cpu());
  EXPECT_FALSE(writes.capture([&] { Tensor::from<float>({1}, {1}); }));
  StepGraph fails(Device::cpu());
  EXPECT_FALSE(fails.capture([] { fail("no memory"); }));
  EXPECT_EQ(fails.trouble(), "no memory");
  // The thread records no longer: what follows is done.
  EXPECT_EQ(values(kernels::scale(x, 2.0)), (std::vector<float>{6}));
}

TEST(StepGraph, MistakesOfTheCallerPassThrough) {
  const Tensor x = Tensor::from<float>({3}, {1}), wide = Tensor::from<float>({1, 2}, {2});
  StepGraph graph(Device::cpu());
  EXPECT_THROW(graph.capture([&] { kernels::add(x, wide); }), std::invalid_argument);
  EXPECT_EQ(values(kernels::scale(x, 2.0)), (std::vector<float>{6}));
}

// Everything that runs on the CPU by another way than launch.h has to know of recordings, too.
TEST(StepGraph, ProductsCopiesAndFillsAreRecorded) {
  const Tensor a = Tensor::from<float>({1, 2, 3, 4}, {2, 2}), b = a.clone();
  const Tensor c = Tensor::zeros({2, 2}, Dtype::f32), d = c.clone(), e = a.clone();
  const Tensor half = kernels::cast(a, Dtype::bf16);
  const Tensor strided = c.clone();
  const kernels::Matrices all{a, 0, 4, 2, 2, 2};
  Tensor halves;
  StepGraph graph(Device::cpu());
  const std::function<void()> step = [&] {
    kernels::gemm(a, kernels::Trans::no, b, kernels::Trans::yes, c, 1.0, 0.0);
    d.copy_from(c);
    e.fill_zero();
    kernels::gemm_strided(all, kernels::Trans::no, {b, 0, 4, 2, 2, 2}, kernels::Trans::no,
                          {strided, 0, 4, 2, 2, 2}, 1, 1.0, 0.0);
    halves = kernels::matmul(half, kernels::Trans::no, half, kernels::Trans::no);
  };
  ASSERT_TRUE(graph.capture(step)) << graph.trouble();
  EXPECT_EQ(values(c), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(values(e), values(a));
  graph.replay();
  EXPECT_EQ(values(c), (std::vector<float>{5, 11, 11, 25}));
  EXPECT_EQ(values(d), values(c));
  EXPECT_EQ(values(e), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(values(strided), (std::vector<float>{7, 10, 15, 22}));
  EXPECT_EQ(values(halves), (std::vector<float>{7, 10, 15, 22}));
}

TEST(StepGraph, TheEnvironmentDecides) {
  unsetenv("CBQ_GRAPH");
  EXPECT_FALSE(StepGraph::wanted(Device::cpu()));
  EXPECT_TRUE(StepGraph::wanted(Device::cuda()));
  setenv("CBQ_GRAPH", "1", 1);
  EXPECT_TRUE(StepGraph::wanted(Device::cpu()));
  setenv("CBQ_GRAPH", "0", 1);
  EXPECT_FALSE(StepGraph::wanted(Device::cuda()));
  unsetenv("CBQ_GRAPH");
  setenv("CBQ_SYNC", "1", 1);
  EXPECT_FALSE(StepGraph::wanted(Device::cuda())) << "waiting after a launch breaks a capture";
  unsetenv("CBQ_SYNC");
  const DeviceProfile profile;
  EXPECT_FALSE(StepGraph::wanted(Device::cuda())) << "a graph has no ops that could be timed";
}

TEST(HostTransfers, AreCounted) {
  const Tensor x = Tensor::from<float>({1, 2}, {2});
  const auto counts = [](const std::function<void()>& f) {
    const int64_t before = host_transfers();
    f();
    return host_transfers() - before;
  };
  EXPECT_GT(counts([&] { x.to_vector<float>(); }), 0);
  EXPECT_GT(counts([&] { x.slice(0, 1).item(); }), 0);
  EXPECT_GT(counts([&] { x.to(Device::cpu()); }), 0);
  EXPECT_GT(counts([&] { Tensor::from<float>({1}, {1}); }), 0);
  EXPECT_EQ(counts([&] {
              const Tensor y = kernels::scale(x.clone(), 2.0);
              y.copy_from(x);
              kernels::add(x, y).fill_zero();
              kernels::write_values(Tensor({2}, Dtype::f64), {1, 2});
            }),
            0);
}

TEST(CopyQueue, Copies) {
  const Tensor from = Tensor::from<float>({1, 2, 3}, {3});
  const Tensor locked = Tensor::page_locked({3}, Dtype::f32), to = Tensor::zeros({3}, Dtype::f32);
  EXPECT_EQ(locked.device(), Device::cpu());
  locked.copy_from(from);
  CopyQueue queue(Device::cpu());
  queue.wait_for_current();
  queue.copy(to, locked);
  queue.current_waits();
  EXPECT_EQ(values(to), values(from));
  EXPECT_THROW(queue.copy(to, Tensor({4}, Dtype::f32)), std::invalid_argument);
}

}  // namespace
}  // namespace cbq::test_stream_graph
