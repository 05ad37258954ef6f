// Weights on a grid in the block formats of GGUF, read back by nn/gguf/gguf_blocks.h, which
// tests/test_gguf.cpp compares with the Python package gguf.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "nn/gguf/gguf_grid.h"
#include "tests/test_data.h"

namespace cbq::test::test_gguf_grid {
namespace {

struct GridCase {
  GgufGrid grid;  // of a row of 512
  const char* format;
};

void PrintTo(const GridCase& c, std::ostream* out) {
  *out << c.grid.bits << " bits, " << (c.grid.symmetric ? "symmetric" : "asymmetric") << ", shared "
       << c.grid.shared << ": " << c.format;
}

class GgufGrids : public ::testing::TestWithParam<GridCase> {};

TEST_P(GgufGrids, AreHeldToTheBit) {
  const GgufGrid& grid = GetParam().grid;
  const GgufBlockFormat* format = gguf_format_of(grid);
  ASSERT_NE(format, nullptr);
  EXPECT_STREQ(format->name, GetParam().format);
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const int codes = 1 << grid.bits;
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<uint8_t> q, z;
    std::vector<float> s;
    for (int64_t g = 0; g < grid.row_values / grid.shared; ++g) {
      z.push_back(static_cast<uint8_t>(grid.symmetric ? codes / 2 : below(codes)));
      const int digits = grid.exact_products ? 64 : 1024;  // from 2^-13 up, with 7 or 11 bits
      const int last = grid.exact_products ? -14 : -18;
      s.push_back(std::ldexp(static_cast<float>(digits + below(digits)), last - below(6)));
    }
    for (int64_t j = 0; j < grid.row_values; ++j) q.push_back(static_cast<uint8_t>(below(codes)));
    const int64_t blocks = grid.row_values / format->values;
    std::vector<std::byte> bytes(static_cast<size_t>(blocks * format->bytes));
    encode_gguf_row(*format, grid, {q.data(), s.data(), z.data()}, bytes.data());
    std::vector<float> values(q.size());
    format->dequantize(bytes.data(), blocks, values.data());
    for (size_t j = 0; j < q.size(); ++j) {
      const size_t g = j / static_cast<size_t>(grid.shared);
      ASSERT_EQ(values[j], s[g] * static_cast<float>(q[j] - z[g])) << j;
    }
  }
}

constexpr GridCase grid_cases[] = {
    {{1, false, 512, 512}, "Q2_K"},      {{2, false, 512, 512}, "Q2_K"},
    {{2, true, 512, 256}, "Q2_K"},       {{2, false, 512, 128}, "Q4_0"},
    {{2, true, 512, 32}, "Q4_0"},        {{3, true, 512, 512}, "Q3_K"},
    {{3, false, 512, 512}, "Q4_0"},      {{3, false, 512, 32}, "Q4_0"},
    {{4, true, 512, 32}, "Q4_0"},        {{4, true, 512, 512}, "Q4_0"},
    {{4, false, 512, 512}, "Q4_K"},      {{4, false, 512, 256}, "Q4_K"},
    {{4, false, 512, 32, true}, "Q4_1"}, {{4, false, 512, 32}, "Q5_0"},
    {{4, false, 512, 128}, "Q5_0"},      {{5, true, 512, 64}, "Q5_0"},
    {{5, false, 512, 512}, "Q5_K"},      {{5, false, 512, 32}, "Q8_0"},
    {{6, true, 512, 512}, "Q6_K"},       {{6, true, 512, 32}, "Q8_0"},
    {{6, false, 512, 512}, "Q8_0"},      {{7, false, 512, 64}, "Q8_0"},
    {{8, true, 512, 32}, "Q8_0"}};

INSTANTIATE_TEST_SUITE_P(Cases, GgufGrids, ::testing::ValuesIn(grid_cases));

TEST(GgufGridObstacle, SaysWhatIsInTheWay) {
  const auto expect = [](const GgufGrid& grid, const char* part) {
    EXPECT_EQ(gguf_format_of(grid), nullptr);
    EXPECT_NE(gguf_grid_obstacle(grid).find(part), std::string::npos) << gguf_grid_obstacle(grid);
  };
  expect({8, false, 512, 32}, "8 bits with zero points");
  expect({4, true, 172, 172}, "172 inputs are no multiple of 32");
  expect({4, true, 512, 16}, "groups of 16");
  EXPECT_EQ(gguf_grid_obstacle({4, true, 512, 32}), "");
}

TEST(GgufGridRow, AScaleThatHalfPrecisionDoesNotHoldIsRefused) {
  const GgufGrid grid = {4, true, 32, 32};
  const std::vector<uint8_t> q(32, 3);
  const float s = 1.0f + 0x1p-12f;
  const uint8_t z = 8;
  std::vector<std::byte> bytes(18);
  expect_error<std::invalid_argument>(
      [&] {
        encode_gguf_row(*gguf_format_of(grid), grid, {q.data(), &s, &z}, bytes.data());
      },
      {"scale", "no number of half precision"});
}

}  // namespace
}  // namespace cbq::test::test_gguf_grid
