// Quantizers of tokens as whole rows on a grid (a GPU where there is one, emulated in
// cbq_simt_tests) against the CPU's loops: at widths around the vectors of 16 bytes and the
// registers of a block, with rows that begin at multiples of 16 bytes and others. In a program that
// has neither, these are skipped.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops.h"
#include "quant/quantize_tokens.h"
#include "tests/compared_device.h"
#include "tests/token_quantizers.h"

namespace cbq::test::test_token_rows {
namespace {

/// A function of tensors, quantizers and gradients for them, on the CPU.
struct Case {
  Before before;
  Dtype dtype;
  Tensor x, up, weight, bias;
  std::vector<TokenQuantizer> quantizers;
  std::vector<Tensor> dy;

  Case(Before function, const Shape& shape, Dtype type, size_t k) : before(function), dtype(type) {
    const Shape row{shape.back()};
    x = next(shape, 0.2, 1.0);
    up = next(shape, 0.1, 1.0);
    weight = next(row, 1.0, 0.3);
    bias = next(row, 0.0, 0.3);
    for (size_t i = 0; i < k; ++i) {
      Tensor clip({1}, type == Dtype::f64 ? Dtype::f64 : Dtype::f32);
      kernels::fill(clip, i == 0 ? -0.25 : 0.1);
      quantizers.push_back(
          {clip, config_of(i == 1 ? 8 : 4, i == 2 ? Form::restricted : Form::asymmetric)});
      dy.push_back(next(shape, 0.0, 1.0));
    }
  }
  Tensor next(const Shape& shape, double mean, double deviation) {
    return normal(shape, mean, deviation, stream++, dtype);
  }
  uint64_t stream = 0;
};

struct Results {
  QuantizedTokens forward;
  TokenGradients back;
};

/// On `device`, with every tensor `by` elements behind the start of a block.
Results run(const Case& c, Device device, int64_t by, bool want_x) {
  const auto placed = [&](const Tensor& t) {
    const Tensor buffer({by + t.count()}, t.dtype(), device);
    const Tensor view = buffer.slice(by, by + t.count()).reshape(t.shape());
    view.copy_from(t);
    return view;
  };
  std::vector<TokenQuantizer> quantizers;
  for (const TokenQuantizer& q : c.quantizers) quantizers.push_back({q.clip.to(device), q.config});
  std::vector<Tensor> dy;
  for (const Tensor& g : c.dy) dy.push_back(placed(g));
  const Deferred y = deferred(c.before, Var(placed(c.x)), Var(placed(c.up)), Var(placed(c.weight)),
                              Var(placed(c.bias)), 1e-5);
  Results results{quantize_tokens(y, quantizers), {}};
  results.back = quantize_tokens_backward(y, quantizers, results.forward, dy, want_x);
  return results;
}

std::vector<double> numbers(const Tensor& t) { return t.to(Device::cpu()).to_vector<double>(); }

double rms_of(const std::vector<double>& values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares / static_cast<double>(std::max<size_t>(1, values.size())));
}

/// Equal but for `others` elements of a thousand, by `tolerance` beside their size.
void expect_few_apart(const Tensor& grid, const Tensor& loop, double tolerance, int others,
                      const std::string& what) {
  ASSERT_EQ(grid.defined(), loop.defined()) << what;
  if (!grid.defined()) return;
  const auto a = numbers(grid), b = numbers(loop);
  ASSERT_EQ(a.size(), b.size()) << what;
  const double size = rms_of(b);
  size_t apart = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool close = std::abs(a[i] - b[i]) <= tolerance * (std::abs(b[i]) + size);
    apart += close ? 0 : 1;
  }
  EXPECT_LE(apart * 1000, static_cast<size_t>(others) * a.size()) << what;
}

/// What a clip variable's gradient would be if its terms had a step's size and any sign.
double size_of_sum(const Case& c, const QuantizedTokens& tokens, size_t i) {
  double widest = 0;
  for (const double end : numbers(tokens.range)) widest = std::max(widest, 2 * end);
  const double step = widest / ((1 << c.quantizers[i].config.bits) - 1);
  return step * std::sqrt(static_cast<double>(c.x.count()));
}

void compare(const Case& c, int64_t by = 0, bool want_x = true) {
  const Results grid = run(c, *compared_device(), by, want_x);
  const Results again = run(c, *compared_device(), by, want_x);
  Results loop;
  on_the_host([&] { loop = run(c, Device::cpu(), by, want_x); });
  // A norm's sums in another order move a last bit, which moves a tie. All else is the same.
  const bool norm = is_norm(c.before);
  const double unit = c.dtype == Dtype::bf16 ? 1e-2 : c.dtype == Dtype::f16 ? 2e-3 : 1e-5;
  const double tolerance = norm ? unit : 0.0;
  const int others = norm ? 10 : 0;
  for (size_t i = 0; i < c.quantizers.size(); ++i) {
    expect_few_apart(grid.forward.outputs[i], loop.forward.outputs[i], tolerance, others,
                     concat("value ", i));
    EXPECT_EQ(numbers(grid.back.clips[i]), numbers(again.back.clips[i])) << "two runs differ";
    const double a = numbers(grid.back.clips[i])[0], b = numbers(loop.back.clips[i])[0];
    EXPECT_NEAR(a, b, norm ? 0.02 * size_of_sum(c, loop.forward, i) : 1e-4 * (1 + std::abs(b)))
        << i;
  }
  expect_few_apart(grid.forward.range, loop.forward.range, tolerance, 0, "range");
  // The loops may be sums of one term after the other (ThreadSanitizer keeps them from becoming
  // vectors), whose n roundings of 2^-24 add up as a random walk.
  const double of_sum = std::max(1e-6, std::ldexp(std::sqrt(c.x.size(1)), -24));
  expect_few_apart(grid.forward.statistics, loop.forward.statistics, of_sum, 0, "statistics");
  expect_few_apart(grid.back.x, loop.back.x, tolerance, others, "dx");
  expect_few_apart(grid.back.second, loop.back.second, tolerance, others, "dup");
  EXPECT_EQ(grid.back.x.defined(), want_x);
}

class TokenRows : public ::testing::TestWithParam<Before> {
 protected:
  void SetUp() override { SKIP_WITHOUT_GRIDS(); }
};

// One vector per thread and several, rows that end within one, rows that no block's registers hold.
TEST_P(TokenRows, EqualTheLoops) {
  for (const int64_t n : {1, 7, 8, 37, 512, 1032, 4099, 8192, 16392, 40000}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
      SCOPED_TRACE(concat(n, " ", name_of(dtype)));
      const Shape shape{n > 8192 ? 2 : 3, n};
      compare(Case(GetParam(), shape, dtype, 1));
      if (n > 9000 && dtype != Dtype::bf16) continue;
      compare(Case(GetParam(), shape, dtype, 3));
      compare(Case(GetParam(), shape, dtype, 1), 0, false);
    }
  }
  compare(Case(GetParam(), {3, 37}, Dtype::f64, 3));
  compare(Case(GetParam(), {0, 512}, Dtype::bf16, 1));
}

TEST_P(TokenRows, BeginAnywhere) {
  for (const int64_t n : {8, 512, 4096}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      SCOPED_TRACE(concat(n, " ", name_of(dtype)));
      compare(Case(GetParam(), {3, n}, dtype, 1), 1);
      compare(Case(GetParam(), {3, n}, dtype, 2), 3);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Before, TokenRows, ::testing::ValuesIn(all_before),
                         [](const auto& one) { return name_of(one.param); });

}  // namespace
}  // namespace cbq::test::test_token_rows
