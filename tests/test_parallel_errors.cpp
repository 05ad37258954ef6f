// Exceptions inside of parallel regions come out of the op, and the program goes on.
#include <gtest/gtest.h>
#include <omp.h>

#include <stdexcept>
#include <vector>

#include "kernels/attention/varlen_attention.h"
#include "kernels/launch/parallel_errors.h"
#include "kernels/ops.h"
#include "tests/failing_allocations.h"

namespace cbq::test::test_parallel_errors {
namespace {

struct Threads {
  explicit Threads(int count) : before(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before); }
  int before;
};

Tensor normal(Shape shape, uint64_t stream) {
  Tensor t(std::move(shape), Dtype::f64);
  kernels::fill_normal(t, 0.0, 1.0, 3, stream);
  return t;
}

TEST(ParallelErrors, OneExceptionIsThrownAfterTheRegion) {
  const Threads threads(3);
  ParallelErrors errors;
  errors.rethrow();  // nothing was thrown
  int done = 0;
#pragma omp parallel for schedule(static) reduction(+ : done)
  for (int i = 0; i < 300; ++i) {
    errors.guard([&] {
      if (i % 100 == 50) throw std::runtime_error("call " + std::to_string(i));
      ++done;
    });
  }
  EXPECT_LT(done, 300);
  try {
    errors.rethrow();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("50"), std::string::npos) << error.what();
  }
}

TEST(ParallelErrors, AttentionOfPackedRowsSurvivesAFailedAllocation) {
  const Threads threads(3);
  constexpr int64_t heads = 4, dim = 8;
  const VarlenRows rows({{20, {5, 300, 7}}, {0, {9, 1}}, {3, {4}}}, Device::cpu());
  const Tensor q = normal({rows.rows(), heads * dim}, 1), k = normal({rows.rows(), heads * dim}, 2),
               v = normal({rows.rows(), heads * dim}, 3);
  const auto attend = [&] {
    return kernels::varlen_attention(q, k, v, rows, heads, heads, Tensor()).to_vector<double>();
  };
  const std::vector<double> expected = attend();
  EXPECT_GT(with_each_allocation_failing(attend), 10);
  EXPECT_EQ(attend(), expected);
}

TEST(ParallelErrors, AttentionSurvivesAFailedAllocation) {
  const Threads threads(3);
  const kernels::AttentionHeads heads{2, 4, 2};
  const Tensor q = normal({2 * 70, 4 * 8}, 1), k = normal({2 * 70, 2 * 8}, 2),
               v = normal({2 * 70, 2 * 8}, 3), d_o = normal({2 * 70, 4 * 8}, 4);
  const auto attend = [&] {
    const kernels::AttentionResult forward = kernels::attention(q, k, v, heads);
    return kernels::attention_backward(q, k, v, forward, d_o, heads).dk.to_vector<double>();
  };
  const std::vector<double> expected = attend();
  EXPECT_GT(with_each_allocation_failing(attend), 0);
  EXPECT_EQ(attend(), expected);
}

}  // namespace
}  // namespace cbq::test::test_parallel_errors
