// Philox4x32-10, the random tensors made of it, and the accuracy of math::exp.
#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "autograd/worst_error.h"
#include "kernels/formulas/math.h"
#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "tests/reference/random_optim.h"

namespace cbq::test_philox {
namespace {

struct KnownAnswer {
  std::array<uint32_t, 4> counter;
  std::array<uint32_t, 2> key;
  std::array<uint32_t, 4> words;
};
// Published with Random123 (kat_vectors, philox4x32 10).
constexpr KnownAnswer known_answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};

TEST(Philox, KnownAnswers) {
  for (const auto& [c, k, words] : known_answers) {
    const PhiloxBlock block = philox4x32(c[0], c[1], c[2], c[3], k[0], k[1]);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(block.x[i], words[i]) << "word " << i;
    EXPECT_EQ(reference::philox(c, k), words) << "the reference itself";
  }
}

TEST(Philox, EveryPartOfTheAddressCounts) {
  std::set<uint32_t> seen;
  int64_t drawn = 0;
  const uint64_t high = uint64_t{1} << 32;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, high}) {
    for (uint64_t stream : {uint64_t{0}, uint64_t{1}, high}) {
      for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{4}, 4 * high}) {
        seen.insert(philox_bits(seed, stream, index));
        ++drawn;
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), drawn);
}

TEST(Philox, UniformStaysInsideItsInterval) {
  // Elements found by search, whose words lie in the first and the last cell.
  constexpr uint64_t lowest = 71035964, highest = 44126575;
  ASSERT_LT(philox_bits(0, 0, lowest), 0x80u);
  ASSERT_GE(philox_bits(0, 0, highest), 0xffffff80u);
  EXPECT_GT(philox_uniform(0, 0, lowest), 0.0f);
  EXPECT_LT(philox_uniform(0, 0, highest), 1.0f);
  float low = 1.0f, high = 0.0f;
  for (uint64_t i = 0; i < 1 << 20; ++i) {
    const float u = philox_uniform(42, 0, i);
    ASSERT_NEAR(u, reference::uniform(42, 0, i), 1e-12) << "element " << i;
    low = std::min(low, u);
    high = std::max(high, u);
  }
  EXPECT_GT(low, 0.0f);
  EXPECT_LT(high, 1.0f);
}

/// Mean of x^power over the elements.
double moment(const std::vector<double>& x, int power) {
  double total = 0.0;
  for (double value : x) total += std::pow(value, power);
  return total / static_cast<double>(x.size());
}

constexpr int64_t many = 1 << 20;

TEST(Philox, MomentsOfNormals) {
  const Tensor t({many}, Dtype::f32);
  kernels::fill_normal(t, 0.0, 1.0, 7, 3);
  const std::vector<double> x = t.to_vector<double>();
  // Five standard errors of the moments of N(0, 1): sqrt(1, 2, 15, 96) / sqrt(n).
  const double unit = 5.0 / std::sqrt(static_cast<double>(many));
  EXPECT_NEAR(moment(x, 1), 0.0, unit);
  EXPECT_NEAR(moment(x, 2), 1.0, unit * std::sqrt(2.0));
  EXPECT_NEAR(moment(x, 3), 0.0, unit * std::sqrt(15.0));
  EXPECT_NEAR(moment(x, 4), 3.0, unit * std::sqrt(96.0));
  double neighbours = 0.0;
  for (size_t i = 1; i < x.size(); ++i) neighbours += x[i] * x[i - 1];
  EXPECT_NEAR(neighbours / static_cast<double>(many), 0.0, unit);
  kernels::fill_normal(t, 3.0, 0.5, 7, 3);
  EXPECT_NEAR(moment(t.to_vector<double>(), 1), 3.0, unit);
}

TEST(Philox, MomentsOfUniforms) {
  const Tensor t({many}, Dtype::f32);
  kernels::fill_uniform(t, -2.0, 4.0, 7, 3);
  std::vector<double> x = t.to_vector<double>();
  for (double& value : x) value = (value + 2.0) / 6.0;
  const double unit = 5.0 / std::sqrt(static_cast<double>(many));
  EXPECT_NEAR(moment(x, 1), 1.0 / 2.0, unit * std::sqrt(1.0 / 12.0));
  EXPECT_NEAR(moment(x, 2), 1.0 / 3.0, unit * std::sqrt(4.0 / 45.0));
  EXPECT_NEAR(moment(x, 3), 1.0 / 4.0, unit * std::sqrt(9.0 / 112.0));
}

TEST(Philox, AnElementDependsOnItsAddressOnly) {
  const int threads = omp_get_max_threads();
  const Tensor one({many}, Dtype::f32), two({many}, Dtype::f32), start({100}, Dtype::f32);
  omp_set_num_threads(1);
  kernels::fill_normal(one, 0.0, 1.0, 5, 9);
  omp_set_num_threads(3);
  kernels::fill_normal(two, 0.0, 1.0, 5, 9);
  omp_set_num_threads(threads);
  kernels::fill_normal(start, 0.0, 1.0, 5, 9);
  EXPECT_EQ(one.to_vector<float>(), two.to_vector<float>());
  EXPECT_EQ(start.to_vector<float>(), one.slice(0, 100).to_vector<float>());
}

TEST(Philox, DtypesGetTheSameNumbers) {
  const Tensor single({1000}, Dtype::f32), twice({1000}, Dtype::f64);
  kernels::fill_normal(single, 0.0, 1.0, 5, 9);
  kernels::fill_normal(twice, 0.0, 1.0, 5, 9);
  EXPECT_EQ(single.to_vector<double>(), twice.to_vector<double>());
}

// ---- math::exp ----------------------------------------------------------------------------------

/// Distance in units of the last place of the correctly rounded value.
double ulps(float got, double want) {
  const auto rounded = static_cast<float>(want);
  const double spacing = std::nextafter(rounded, std::numeric_limits<float>::infinity()) -
                         static_cast<double>(rounded);
  return std::abs(static_cast<double>(got) - want) / spacing;
}

TEST(Exp, WithinOneUlpOnItsWholeRange) {
  WorstError worst;
  float where = 0.0f;
  int64_t checked = 0;
  // Every 97th float between the ends the header states, of either sign.
  for (float limit : {-87.33f, 88.722f}) {
    uint32_t last = 0;
    std::memcpy(&last, &limit, sizeof last);
    for (uint32_t bits = last & 0x80000000u; bits <= last; bits += 97) {
      float x = 0.0f;
      std::memcpy(&x, &bits, sizeof x);
      const double error = ulps(math::exp(x), std::exp(static_cast<double>(x)));
      if (worst.add(error)) where = x;
      ++checked;
    }
  }
  EXPECT_LE(worst.value(), 1.0) << "at " << where;
  EXPECT_GT(checked, 20000000);
  std::printf("[   INFO   ] exp: worst %.3f ulp at %g\n", worst.value(),
              static_cast<double>(where));
}

TEST(Exp, Ends) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(math::exp(0.0f), 1.0f);
  EXPECT_EQ(math::exp(-0.0f), 1.0f);
  EXPECT_EQ(math::exp(infinity), infinity);
  EXPECT_EQ(math::exp(89.0f), infinity);
  EXPECT_EQ(math::exp(3.4e38f), infinity);
  EXPECT_EQ(math::exp(-infinity), 0.0f);
  EXPECT_EQ(math::exp(-87.34f), 0.0f);
  EXPECT_EQ(math::exp(-3.4e38f), 0.0f);
  EXPECT_TRUE(std::isnan(math::exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isfinite(math::exp(88.722f)));
  EXPECT_GT(math::exp(-87.33f), 0.0f);
  // The smallest and the largest results, where the exponent's pattern runs out.
  for (float x : {-87.33f, -87.2f, -87.0f, -86.9f, 88.4f, 88.7f, 88.7215f, 88.722f}) {
    EXPECT_LE(ulps(math::exp(x), std::exp(static_cast<double>(x))), 1.0) << x;
  }
}

TEST(Tanh, AsCloseAsItsHeaderSays) {
  WorstError worst;
  float where = 0.0f;
  for (uint32_t bits = 0; bits <= 0x41200000u; bits += 97) {  // to 10, beyond which it is 1
    float x = 0.0f;
    std::memcpy(&x, &bits, sizeof x);
    const double want = std::tanh(static_cast<double>(x));
    if (want < 1e-37) continue;  // subnormal: a relative error means nothing
    if (worst.add(std::abs(static_cast<double>(math::tanh(x)) - want) / want)) where = x;
    ASSERT_EQ(math::tanh(-x), -math::tanh(x)) << x;
  }
  EXPECT_LE(worst.value(), 3e-7) << "at " << where;
  std::printf("[   INFO   ] tanh: worst relative error %.2e at %g\n", worst.value(),
              static_cast<double>(where));
}

TEST(Tanh, Ends) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(math::tanh(0.0f), 0.0f);
  for (const float x : {10.0f, 89.0f, 3.4e38f, infinity}) {
    EXPECT_EQ(math::tanh(x), 1.0f) << x;
    EXPECT_EQ(math::tanh(-x), -1.0f) << x;
  }
  EXPECT_TRUE(std::isnan(math::tanh(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Math, NanIsSeen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(math::max(nan, 1.0f)));
  EXPECT_TRUE(std::isnan(math::max(1.0f, nan)));
  EXPECT_TRUE(std::isnan(math::min(nan, 1.0f)));
  EXPECT_TRUE(std::isnan(math::min(1.0f, nan)));
  EXPECT_TRUE(std::isnan(math::clamp(nan, 0.0f, 1.0f)));
  EXPECT_TRUE(std::isnan(math::abs(nan)));
  EXPECT_TRUE(std::isnan(math::sigmoid(nan)));
  for (int64_t at : {0, 17, 36}) {  // wherever it stands
    std::vector<float> x(37, 0.5f);
    x[static_cast<size_t>(at)] = nan;
    const Tensor t = Tensor::from(x, {1, 37});
    const auto [low, high] = kernels::min_max_rows(t);
    EXPECT_TRUE(std::isnan(low.item()) && std::isnan(high.item())) << at;
    EXPECT_TRUE(std::isnan(kernels::abs_max_columns(t.reshape({37, 1})).item())) << at;
    EXPECT_TRUE(std::isnan(kernels::softmax(t).to_vector<double>()[3])) << at;
    EXPECT_TRUE(std::isnan(kernels::sum(t).item())) << at;
  }
}

TEST(Math, SigmoidSaturates) {
  EXPECT_EQ(math::sigmoid(-200.0f), 0.0f);
  EXPECT_EQ(math::sigmoid(200.0f), 1.0f);
  EXPECT_EQ(math::sigmoid(0.0f), 0.5f);
}

}  // namespace
}  // namespace cbq::test_philox
