// Products of kernels/matmul/f32_product.h against sums in double, and that their bytes do not
// depend on how they are divided.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/matmul/f32_product.h"
#include "kernels/matmul/f32_product_room.h"

namespace cbq::test_f32_product {
namespace {

using kernels::F32Product;

struct Case {
  int64_t m, n, k;
  bool ta, tb;
  float alpha, beta;
};

/// Operands with a few columns too many, so that rows do not follow one another, and NaN there:
/// what is read too much shows.
struct Operands {
  std::vector<float> a, b, c;
  F32Product product;

  explicit Operands(const Case& of) {
    std::mt19937 bits(static_cast<unsigned>(of.m * 131 + of.n * 17 + of.k));
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int64_t rows, int64_t columns, int64_t stride) {
      x.assign(static_cast<size_t>((rows - 1) * stride + columns), std::nanf(""));
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) x[static_cast<size_t>(i * stride + j)] = normal(bits);
      }
    };
    const int64_t lda = (of.ta ? of.m : of.k) + 3, ldb = (of.tb ? of.k : of.n) + 5, ldc = of.n + 1;
    fill(a, of.ta ? of.k : of.m, of.ta ? of.m : of.k, lda);
    fill(b, of.tb ? of.n : of.k, of.tb ? of.k : of.n, ldb);
    fill(c, of.m, of.n, ldc);
    product = {of.ta, of.tb,    of.m, of.n,    of.k,     of.alpha, a.data(),
               lda,   b.data(), ldb,  of.beta, c.data(), ldc};
  }
};

double worst_error(const Operands& x, const std::vector<float>& before) {
  const F32Product& p = x.product;
  double worst = 0.0;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = 0.0, size = 0.0;
      for (int64_t l = 0; l < p.k; ++l) {
        const double term = double{p.a[p.transpose_a ? l * p.lda + i : i * p.lda + l]} *
                            double{p.b[p.transpose_b ? j * p.ldb + l : l * p.ldb + j]};
        sum += term;
        size += std::abs(term);
      }
      const auto at = static_cast<size_t>(i * p.ldc + j);
      const double old = p.beta == 0.0F ? 0.0 : double{p.beta} * double{before[at]};
      const double error = std::abs(double{x.c[at]} - double{p.alpha} * sum - old);
      // NaN must not pass: !(error <= bound).
      const double bound = std::abs(double{p.alpha}) * size + std::abs(old);
      worst = error <= bound ? std::max(worst, error / bound) : 1.0;
      if (worst == 1.0) return worst;
    }
  }
  return worst;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const auto [m, n, k] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                      {4, 16, 16},
                                                                      {12, 32, 256},
                                                                      {13, 33, 257},
                                                                      {25, 47, 31},
                                                                      {11, 65, 600},
                                                                      {400, 40, 17},
                                                                      {37, 8, 100},
                                                                      {24, 16, 515},
                                                                      {5, 31, 7}}) {
        all.push_back({m, n, k, ta, tb, 1.0F, 0.0F});
        all.push_back({m, n, k, ta, tb, -0.5F, 2.0F});
      }
    }
  }
  return all;
}

TEST(F32Product, EveryElementIsTheSumOfItsProducts) {
  if (kernels::f32_product_vectors() == nullptr) GTEST_SKIP() << "no AVX2 here: OpenBLAS instead";
  for (const Case& of : cases()) {
    Operands x(of);
    const std::vector<float> before = x.c;
    kernels::f32_product(x.product);
    EXPECT_LE(worst_error(x, before), 2e-6)
        << of.m << " x " << of.n << " x " << of.k << ", " << of.ta << of.tb << ", beta " << of.beta;
    for (int64_t i = 0; i + 1 < of.m; ++i) {  // between the rows of c nothing was written
      EXPECT_TRUE(std::isnan(x.c[static_cast<size_t>(i * x.product.ldc + of.n)]));
    }
  }
}

// A machine with AVX-512 would never run the other make. The order of the sums is the same.
TEST(F32Product, Avx2MakesTheSameBytes) {
  if (kernels::f32_product_vectors() == nullptr) GTEST_SKIP() << "no AVX2 here: OpenBLAS instead";
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Line> room(static_cast<size_t>(kernels::f32_product_room_avx2 / 16 + 1));
  for (const Case& of : cases()) {
    Operands x(of), y(of);
    kernels::f32_product(x.product);
    kernels::f32_product_avx2(y.product, room.front().floats);
    EXPECT_EQ(std::memcmp(x.c.data(), y.c.data(), x.c.size() * sizeof(float)), 0)
        << of.m << " x " << of.n << " x " << of.k << ", " << of.ta << of.tb << ", beta " << of.beta;
  }
}

TEST(F32Product, BytesDoNotDependOnTheDivision) {
  if (kernels::f32_product_vectors() == nullptr) GTEST_SKIP() << "no AVX2 here: OpenBLAS instead";
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const Case of{77, 150, 700, ta, tb, 0.75F, 1.5F};
      Operands whole(of), parts(of);
      kernels::f32_product(whole.product);
      for (int64_t row = 0; row < of.m; row += 16) {
        for (int64_t column = 0; column < of.n; column += 64) {
          F32Product p = parts.product;
          p.m = std::min<int64_t>(16, of.m - row);
          p.n = std::min<int64_t>(64, of.n - column);
          p.a += ta ? row : row * p.lda;
          p.b += tb ? column * p.ldb : column;
          p.c += row * p.ldc + column;
          kernels::f32_product(p);
        }
      }
      EXPECT_EQ(std::memcmp(whole.c.data(), parts.c.data(), whole.c.size() * sizeof(float)), 0)
          << ta << tb;
    }
  }
}

TEST(F32Product, WithoutBetaTheResultIsNotRead) {
  if (kernels::f32_product_vectors() == nullptr) GTEST_SKIP() << "no AVX2 here: OpenBLAS instead";
  for (const int64_t n : {5, 16, 32, 40}) {
    Operands x({7, n, 9, false, true, 1.0F, 0.0F});
    x.c.assign(x.c.size(), std::nanf(""));
    kernels::f32_product(x.product);
    EXPECT_LE(worst_error(x, x.c), 2e-6) << n;
  }
}

}  // namespace
}  // namespace cbq::test_f32_product
