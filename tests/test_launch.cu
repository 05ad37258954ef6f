// launch.h: every index once, rows shared by their workers, errors that name the op.
#include <gtest/gtest.h>

#include "kernels/launch/launch.h"
#include "tensor/tensor.h"

namespace cbq {
namespace {

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu()};
  if (cuda_device_count() > 0) all.push_back(Device::cuda());
  return all;
}

struct CountVisit {
  int32_t* visits;
  CBQ_HD void operator()(int64_t i) const { visits[i] += 1; }
};

// Every worker of a row notes what it was given; sum and max are known in closed form.
struct ShareRow {
  int32_t* visits;
  float* sums;
  float* largest;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    float s = 0.0f, m = -INFINITY;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      visits[r * n + j] += 1;
      s += static_cast<float>(j + 1);
      m = m > -static_cast<float>(j) ? m : -static_cast<float>(j);
    }
    s = row.sum(s);
    m = row.max(m);
    s = row.sum(s) / static_cast<float>(row.lanes());  // a second use right after: no race
    if (row.lane() == row.lanes() - 1) {  // all workers know the result, not only the first
      sums[r] = s;
      largest[r] = m;
    }
  }
};

void expect_ones(const Tensor& visits) {
  for (int32_t count : visits.to_vector<int32_t>()) ASSERT_EQ(count, 1);
}

TEST(Launch, MapCallsEveryIndexOnce) {
  const int64_t t = detail::parallel_threshold;
  for (Device device : devices()) {
    for (int64_t n :
         {int64_t{0}, int64_t{1}, int64_t{31}, int64_t{257}, t - 1, t, t + 1, 40 * t + 7}) {
      const Tensor visits = Tensor::zeros({n}, Dtype::i32, device);
      map("count_visits", device, n, CountVisit{visits.data<int32_t>()});
      expect_ones(visits);
    }
  }
}

TEST(Launch, RowsAreSharedByTheirWorkers) {
  for (Device device : devices()) {
    for (int64_t rows : {0, 1, 7, 5000}) {
      for (int64_t n : {1, 3, 32, 33, 129, 2047}) {
        const Tensor visits = Tensor::zeros({rows, n}, Dtype::i32, device);
        const Tensor sums({rows}, Dtype::f32, device), largest({rows}, Dtype::f32, device);
        map_rows("row_launch", device, rows, n,
                 ShareRow{visits.data<int32_t>(), sums.data<float>(), largest.data<float>(), n});
        expect_ones(visits);
        // Sums of integers below 2^24: exact in any order.
        const auto expected = static_cast<float>(n * (n + 1) / 2);
        for (float s : sums.to_vector<float>()) ASSERT_EQ(s, expected) << rows << " x " << n;
        for (float m : largest.to_vector<float>()) ASSERT_EQ(m, 0.0f);
      }
    }
  }
}

TEST(Launch, WithoutCudaTheErrorNamesTheOp) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "a CUDA device is there";
  try {
    map("count_visits", Device::cuda(), 1, CountVisit{nullptr});
    FAIL() << "no device, no error";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("count_visits"), std::string::npos) << error.what();
  }
}

TEST(Launch, CudaRan) {
  if (cuda_device_count() == 0)
    GTEST_SKIP() << "no CUDA device: launches were tested on the CPU only";
  EXPECT_EQ(devices().size(), 2u);
}

}  // namespace
}  // namespace cbq
