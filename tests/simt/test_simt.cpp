// The emulator itself: what it runs, what it finds, what it says.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops.h"
#include "tests/simt/simt.h"
#include "tests/test_data.h"

namespace cbq::simt {
namespace {

using Order = InOrder::Order;

// Sums start + t over the threads t of a block of 256, by halving. `barrier` false forgets the one
// after the first store.
struct SharedSum {
  int* out;
  int start = 0;
  bool barrier = true;
  static constexpr int threads = 256, sum_of_threads = 255 * 256 / 2;
  void operator()() const {
    __shared__ int values[threads];
    const unsigned t = threadIdx.x;
    values[t] = start + static_cast<int>(t);
    if (barrier) __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      const int sum = t < half ? values[t] + values[t + half] : 0;
      __syncthreads();
      if (t < half) values[t] = sum;
      __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = values[0];
  }
};

TEST(Simt, BlocksShareMemoryAndMeetAtBarriers) {
  for (Order order : {Order::forward, Order::reverse}) {
    const InOrder fixed(order);
    std::vector<int> out(5, -1);
    launch(5, 256, SharedSum{out.data()});
    EXPECT_EQ(out, std::vector<int>(5, SharedSum::sum_of_threads));
  }
}

#ifndef CBQ_SIMT_RACES  // there ThreadSanitizer would report this race, which is one on purpose
TEST(Simt, AMissingBarrierShowsInOneOfTheOrders) {
  int right = 0;
  for (Order order : {Order::forward, Order::reverse}) {
    const InOrder fixed(order);
    int sum = 0;
    launch(1, 256, SharedSum{&sum, 1000});  // what a reader that comes too early finds
    launch(1, 256, SharedSum{&sum, 2000, false});
    right += sum == 256 * 2000 + SharedSum::sum_of_threads;
  }
  EXPECT_EQ(right, 1);
}
#endif

TEST(Simt, LanesExchangeValues) {
  std::vector<double> butterfly(64), down(64);
  std::vector<int> broadcast(64);
  launch(1, 64, [&] {
    const unsigned t = threadIdx.x;
    double x = t;
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(0xffffffffu, x, bits);
    butterfly[t] = x;
    down[t] = __shfl_down_sync(0xffffffffu, static_cast<double>(t), 3);
    broadcast[t] = __shfl_sync(0xffffffffu, static_cast<int>(t), 7);
  });
  for (unsigned t = 0; t < 64; ++t) {
    EXPECT_EQ(butterfly[t], t < 32 ? 496.0 : 496.0 + 32 * 32);
    EXPECT_EQ(down[t], t % 32 < 29 ? t + 3 : t);
    EXPECT_EQ(broadcast[t], t < 32 ? 7 : 39);
  }
}

TEST(Simt, ThreadsThatWaitInVainAreNamed) {
  const auto one_leaves = [] {
    if (threadIdx.x == 5) return;
    __syncthreads();
  };
  expect_error<std::runtime_error>(
      [&] { launch(1, 64, one_leaves); },
      {"block 0", "waits for ever", "thread 5 has returned", "thread 0 is at", "test_simt.cpp"});
  const auto two_barriers = [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  };
  expect_error<std::runtime_error>([&] { launch(3, 64, two_barriers); }, {"waits for ever"});
  // The machine still works afterwards.
  std::vector<int> out(1);
  launch(1, 256, SharedSum{out.data()});
  EXPECT_EQ(out[0], SharedSum::sum_of_threads);
}

TEST(Simt, ShufflesNeedTheWholeWarp) {
  const auto shuffle_all = [] { __shfl_xor_sync(0xffffffffu, 1, 1); };
  expect_error<std::runtime_error>([&] { launch(1, 48, shuffle_all); }, {"all 32 lanes", "48"});
  const auto shuffle_some = [] { __shfl_xor_sync(0xffffu, 1, 1); };
  expect_error<std::runtime_error>([&] { launch(1, 32, shuffle_some); }, {"all 32 lanes"});
  const auto half_of_a_warp = [] {
    if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
  };
  expect_error<std::runtime_error>([&] { launch(1, 32, half_of_a_warp); }, {"waits for ever"});
}

TEST(Simt, WhatAThreadThrowsArrives) {
  const auto thrower = [] {
    if (threadIdx.x == 3) throw std::invalid_argument("from thread 3");
    __syncthreads();
  };
  expect_error<std::invalid_argument>([&] { launch(2, 32, thrower); }, {"from thread 3"});
  expect_error<std::invalid_argument>([&] { launch(1, 2048, thrower); }, {"2048 threads"});
}

TEST(Simt, ABlockHasItsOwnDynamicSharedMemory) {
  std::vector<float> before(6), sums(3);
  launch(3, 64, 64 * sizeof(float), [&] {
    auto* shared = static_cast<float*>(dynamic_shared());
    if (threadIdx.x < 2) before[blockIdx.x * 2 + threadIdx.x] = shared[threadIdx.x];
    shared[threadIdx.x] = static_cast<float>(blockIdx.x);
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < 64; ++i) sum += shared[i];
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  });
  for (float x : before) EXPECT_TRUE(std::isnan(x)) << "what the block before left behind";
  EXPECT_EQ(sums, (std::vector<float>{0.0f, 64.0f, 128.0f}));
  expect_error<std::invalid_argument>([] { launch(1, 32, 228 * 1024, [] {}); }, {"shared memory"});
}

// One order copies when the copy is asked for, the other when it is waited for: who reads before
// waiting is wrong in one of them, and who overwrites what is still read in the other.
TEST(Simt, AsynchronousCopiesArriveWhenTheyAreWaitedFor) {
  const int source = 5;
  for (Order order : {Order::forward, Order::reverse}) {
    const InOrder fixed(order);
    int early = -1, one_pending = -1, late = -1;
    launch(1, 1, 8, [&] {
      auto* shared = static_cast<int*>(dynamic_shared());
      shared[0] = shared[1] = 1;
      copy_async(shared, &source, 4, CBQ_SIMT_SITE);
      commit_copies();
      copy_async(shared + 1, nullptr, 4, CBQ_SIMT_SITE);
      commit_copies();
      early = shared[0];
      wait_copies(1);
      one_pending = shared[0] * 10 + shared[1];
      wait_copies(0);
      late = shared[1];
    });
    const bool at_once = order == Order::reverse;
    EXPECT_EQ(early, at_once ? 5 : 1);
    EXPECT_EQ(one_pending, at_once ? 50 : 51);
    EXPECT_EQ(late, 0);
    const auto copy_to = [&](int offset) {
      launch(1, 1, 8, [&] {
        copy_async(static_cast<char*>(dynamic_shared()) + offset, &source, 4, CBQ_SIMT_SITE);
        if (!at_once) commit_copies();
      });
    };
    expect_error<std::invalid_argument>([&] { copy_to(2); }, {"copy of 4 bytes"});
    if (!at_once) expect_error<std::runtime_error>([&] { copy_to(0); }, {"without waiting"});
  }
}

// The library's ops run here: a row's workers are threads of a block, and their sums the same.
TEST(Simt, OpsOfTheLibraryRunAsGrids) {
  Tensor x({3, 700}, Dtype::f64);
  kernels::fill_normal(x, 0.0, 1.0, 1, 1);
  const int64_t before = launches();
  const std::vector<double> grid = kernels::softmax(x).to_vector<double>();
  EXPECT_GT(launches(), before);
  const OnTheHost off;
  const int64_t after = launches();
  const std::vector<double> host = kernels::softmax(x).to_vector<double>();
  EXPECT_EQ(launches(), after);
  for (size_t i = 0; i < host.size(); ++i) EXPECT_NEAR(grid[i], host[i], 1e-15);
  EXPECT_NE(grid, host) << "sums of 256 workers in the order of one";
}

}  // namespace
}  // namespace cbq::simt
