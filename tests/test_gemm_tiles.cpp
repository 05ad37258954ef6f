// Products whose results are cut into tiles of rows and columns, against loops in double.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "autograd/worst_error.h"
#include "kernels/matmul/blas.h"
#include "kernels/ops.h"
#include "tensor/runtime/notice.h"

namespace cbq::test_gemm_tiles {
namespace {

using kernels::Trans;

constexpr int64_t m = 1537, n = 2090, k = 7;  // four tiles down, the last one shorter; two across

Tensor normal(int64_t rows, int64_t columns, uint64_t stream) {
  const Tensor t({rows, columns}, Dtype::f32);
  kernels::fill_normal(t, 0.0, 1.0, 5, stream);
  return t;
}

// OpenBLAS has a table of buffers, one for each product at a time, and ends the program beyond it.
TEST(Blas, MoreThreadsThanItHasRoomForAreReduced) {
  const int before = omp_get_max_threads();
  std::vector<std::string> lines;
  int reduced = 0;
  {
    const NoticeRecorder notices;
    omp_set_num_threads(200);
    kernels::blas::load();
    reduced = omp_get_max_threads();
    lines = notices.lines();
  }
  omp_set_num_threads(before);
  EXPECT_LE(reduced, 128);
  ASSERT_FALSE(lines.empty());
  EXPECT_NE(lines[0].find("128 threads instead of 200"), std::string::npos) << lines[0];
}

TEST(GemmTiles, EveryElementIsTheSumOfItsProducts) {
  for (const Trans ta : {Trans::no, Trans::yes}) {
    for (const Trans tb : {Trans::no, Trans::yes}) {
      const Tensor a = ta == Trans::no ? normal(m, k, 1) : normal(k, m, 1);
      const Tensor b = tb == Trans::no ? normal(k, n, 2) : normal(n, k, 2);
      const auto x = a.to_vector<double>(), y = b.to_vector<double>();
      const Tensor c = normal(m, n, 3);
      const auto before = c.to_vector<double>();
      kernels::gemm(a, ta, b, tb, c, 0.5, 2.0);
      const auto got = c.to_vector<double>();
      WorstError worst;
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.0;
          for (int64_t l = 0; l < k; ++l) {
            sum += x[static_cast<size_t>(ta == Trans::no ? i * k + l : l * m + i)] *
                   y[static_cast<size_t>(tb == Trans::no ? l * n + j : j * k + l)];
          }
          const auto at = static_cast<size_t>(i * n + j);
          worst.add(std::abs(got[at] - 0.5 * sum - 2.0 * before[at]));
        }
      }
      EXPECT_LE(worst.value(), 1e-5) << (ta == Trans::yes) << (tb == Trans::yes);
    }
  }
}

TEST(GemmTiles, BytesDoNotDependOnTheNumberOfThreads) {
  const Tensor a = normal(m, 300, 1), b = normal(600, 300, 2);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto alone = kernels::matmul(a, Trans::no, b, Trans::yes).to_vector<float>();
  for (const int threads : {2, 3, 5}) {
    omp_set_num_threads(threads);
    EXPECT_EQ(kernels::matmul(a, Trans::no, b, Trans::yes).to_vector<float>(), alone);
  }
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace cbq::test_gemm_tiles
