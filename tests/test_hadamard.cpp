// Hadamard matrices, and the online transform that is made of them.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "autograd/gradcheck.h"
#include "kernels/ops.h"
#include "quant/transforms/global/orthogonal.h"
#include "quant/transforms/hadamard_matrix.h"
#include "quant/transforms/online_hadamard.h"
#include "tests/test_data.h"

namespace cbq::test_hadamard {
namespace {

void expect_hadamard(int64_t order) {
  SCOPED_TRACE(order);
  const Tensor h = hadamard_matrix(order);
  ASSERT_EQ(h.shape(), (Shape{order, order}));
  const std::vector<float> v = h.to_vector<float>();
  for (int64_t i = 0; i < order; ++i) {
    ASSERT_EQ(v[static_cast<size_t>(i * order)], 1.0f) << "row " << i;
    for (int64_t j = 0; j <= i; ++j) {
      double product = 0.0;
      for (int64_t c = 0; c < order; ++c) {
        ASSERT_EQ(std::abs(v[static_cast<size_t>(i * order + c)]), 1.0f);
        product += v[static_cast<size_t>(i * order + c)] * v[static_cast<size_t>(j * order + c)];
      }
      ASSERT_EQ(product, i == j ? static_cast<double>(order) : 0.0) << i << " " << j;
    }
  }
}

TEST(HadamardMatrix, AllOrdersUpTo300AreOrthogonalSigns) {
  int64_t count = 0;
  for (int64_t order = 1; order <= 300; ++order) {
    if (!has_hadamard_matrix(order)) continue;
    expect_hadamard(order);
    ++count;
  }
  EXPECT_EQ(count, 48);
}

TEST(HadamardMatrix, OrdersThatLanguageModelsNeed) {
  for (const int64_t order :
       {1, 2, 4, 12, 20, 28, 36, 44, 52, 60, 76, 92, 100, 108, 140, 148, 172, 924}) {
    EXPECT_TRUE(has_hadamard_matrix(order)) << order;
  }
  expect_hadamard(924);
  for (const int64_t order : {0, 3, 6, 10, 18, 156, 188}) {
    EXPECT_FALSE(has_hadamard_matrix(order)) << order;
    expect_error<std::invalid_argument>([&] { hadamard_matrix(order); }, {"order"});
  }
}

TEST(HadamardShape, WidthsOfLanguageModels) {
  const auto expect_shape = [](int64_t width, int64_t block, int64_t order) {
    const HadamardShape shape = hadamard_shape(width);
    EXPECT_EQ(shape.block, block) << width;
    EXPECT_EQ(shape.order, order) << width;
  };
  expect_shape(64, 64, 1);
  expect_shape(576, 576, 36);    // SmolLM2-135M
  expect_shape(1536, 1536, 12);  //
  expect_shape(4096, 4096, 1);   // LLaMA-7B
  expect_shape(11008, 11008, 172);
  expect_shape(13824, 13824, 108);  // LLaMA-13B
  expect_shape(14336, 14336, 28);   // Llama-3-8B
  expect_shape(4864, 4864, 76);     // Qwen2.5-0.5B
  expect_shape(18944, 18944, 148);  // Qwen2.5-7B
  expect_shape(30, 2, 1);           // blocks of 2: no matrix of order 30
  expect_shape(156, 52, 52);
  expect_shape(7, 1, 1);
}

Tensor normal(const Shape& shape, uint64_t seed) {
  const Tensor t(shape, Dtype::f64);
  kernels::fill_normal(t, 0.0, 1.0, seed, 0);
  return t;
}

Tensor identity(int64_t n) {
  const Tensor t = Tensor::zeros({n, n}, Dtype::f64);
  for (int64_t i = 0; i < n; ++i) t.data<double>()[i * n + i] = 1.0;
  return t;
}

double distance(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double largest = x.size() == y.size() ? 0.0 : INFINITY;
  for (size_t i = 0; i < x.size() && i < y.size(); ++i)
    largest = std::max(largest, std::abs(x[i] - y[i]));
  return largest;
}

TEST(OnlineHadamard, EqualsADenseProductAndHasItsGradient) {
  for (const int64_t width : {64, 576, 30, 156}) {
    SCOPED_TRACE(width);
    const auto online = OnlineHadamard::of_width(width, Device::cpu());
    // Row i of apply(I) is T e_i, so T x = x apply(I).
    const Tensor t = online->apply(Var(identity(width))).value();
    EXPECT_LE(
        distance(kernels::matmul(t, kernels::Trans::no, t, kernels::Trans::yes), identity(width)),
        1e-12);
    const Tensor x = normal({3, width}, 1), w = normal({5, width}, 2);
    const Tensor y = online->apply(Var(x)).value();
    EXPECT_LE(distance(y, kernels::matmul(x, kernels::Trans::no, t, kernels::Trans::no)), 1e-12);
    EXPECT_GT(distance(y, x), 0.1);
    const Tensor folded = online->folded_into(w);
    EXPECT_LE(distance(kernels::matmul(x, kernels::Trans::no, folded, kernels::Trans::yes),
                       kernels::matmul(y, kernels::Trans::no, w, kernels::Trans::yes)),
              1e-11);
    Var input(normal({2, width}, 3), true);
    const Tensor dy = normal({2, width}, 4);
    {
      Tape tape;
      tape.backward(online->apply(input), dy);
    }
    EXPECT_LE(
        distance(input.grad(), kernels::matmul(dy, kernels::Trans::no, t, kernels::Trans::yes)),
        1e-12);
  }
  expect_error<std::invalid_argument>([] { OnlineHadamard::of_width(7, Device::cpu()); },
                                      {"7", "odd"});
}

TEST(OnlineHadamard, SpreadsOneLargeValue) {
  std::vector<double> x(576, 0.0);
  x[507] = 25000.0;
  const auto online = OnlineHadamard::of_width(576, Device::cpu());
  for (const double y : online->apply(Var(Tensor::from(x, {1, 576}))).value().to_vector<double>()) {
    EXPECT_NEAR(std::abs(y), 25000.0 / 24.0, 1e-9);
  }
}

TEST(OrthogonalMatrix, IsOrthogonalAndKeepsOnesWhereAsked) {
  for (const bool keeps_ones : {false, true}) {
    for (const int64_t n : {32, 30, 576}) {
      SCOPED_TRACE(concat(n, keeps_ones ? ", keeps ones" : ""));
      const OrthogonalMatrix q = OrthogonalMatrix::random(n, 5, 0, keeps_ones);
      const Tensor transposed = q.rows(identity(n));  // row i is Q e_i
      EXPECT_LE(
          distance(kernels::matmul(transposed, kernels::Trans::no, transposed, kernels::Trans::yes),
                   identity(n)),
          1e-12);
      EXPECT_LE(distance(kernels::transpose(transposed), q.columns(identity(n))), 1e-12);
      const Tensor ones = Tensor::from(std::vector<double>(static_cast<size_t>(n), 1.0), {1, n});
      EXPECT_EQ(distance(q.rows(ones), ones) <= 1e-12, keeps_ones);
      EXPECT_GT(
          distance(transposed, OrthogonalMatrix::random(n, 6, 0, keeps_ones).rows(identity(n))),
          0.01);
      EXPECT_GT(
          distance(transposed, OrthogonalMatrix::random(n, 5, 1, keeps_ones).rows(identity(n))),
          0.01);
    }
  }
}

TEST(OrthogonalMatrix, HeadsHaveSignsOfTheirOwnAndAreRepeatedForTheirQueries) {
  const OrthogonalMatrix q = OrthogonalMatrix::random_per_head(2, 8, 3, 1);
  const Tensor values = q.rows(identity(16)), heads = q.repeated(8, 3).rows(identity(48));
  const auto block = [](const Tensor& t, int64_t at) {
    std::vector<double> b;
    for (int64_t i = 0; i < 8; ++i) {
      for (int64_t j = 0; j < 8; ++j)
        b.push_back(t.data<double>()[(at * 8 + i) * t.size(1) + at * 8 + j]);
    }
    return b;
  };
  EXPECT_NE(block(values, 0), block(values, 1));
  for (int64_t head = 0; head < 6; ++head)
    EXPECT_EQ(block(heads, head), block(values, head / 3)) << head;
}

}  // namespace
}  // namespace cbq::test_hadamard
