// Attention over varlen rows against loops in double, and the two implementations of it.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/functions.h"
#include "autograd/worst_error.h"
#include "kernels/attention/varlen_attention.h"
#include "kernels/ops.h"
#include "tests/test_data.h"

namespace cbq::test_varlen_attention {
namespace {

struct Case {
  std::vector<VarlenGroup> groups;
  int64_t heads, kv_heads, dim;
  bool alibi;
  double cap = 0.0;
};

/// Token t of every sequence, as rows: the prefix, then the branch.
std::vector<std::vector<int64_t>> sequences_of(const std::vector<VarlenGroup>& groups) {
  std::vector<std::vector<int64_t>> all;
  int64_t row = 0;
  for (const VarlenGroup& group : groups) {
    std::vector<int64_t> prefix;
    for (int64_t i = 0; i < group.prefix; ++i) prefix.push_back(row++);
    if (group.prefix > 0) all.push_back(prefix);
    for (const int64_t branch : group.branches) {
      all.push_back(prefix);
      for (int64_t i = 0; i < branch; ++i) all.back().push_back(row++);
    }
  }
  return all;
}

/// One query at a time, in double.
std::vector<double> expected(const Case& c, const std::vector<double>& q,
                             const std::vector<double>& k, const std::vector<double>& v,
                             const std::vector<double>& slopes) {
  std::vector<double> y(q.size());
  for (const auto& rows : sequences_of(c.groups)) {
    for (size_t t = 0; t < rows.size(); ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads);
        std::vector<double> weights(t + 1);
        double total = 0.0;
        for (size_t j = 0; j <= t; ++j) {
          double dot = 0.0;
          for (int64_t i = 0; i < c.dim; ++i) {
            dot += q[static_cast<size_t>((rows[t] * c.heads + h) * c.dim + i)] *
                   k[static_cast<size_t>((rows[j] * c.kv_heads + g) * c.dim + i)];
          }
          dot /= std::sqrt(static_cast<double>(c.dim));
          if (c.cap > 0.0) dot = c.cap * std::tanh(dot / c.cap);
          if (c.alibi) dot += slopes[static_cast<size_t>(h)] * static_cast<double>(j);
          weights[j] = std::exp(dot);
          total += weights[j];
        }
        for (int64_t i = 0; i < c.dim; ++i) {
          double o = 0.0;
          for (size_t j = 0; j <= t; ++j) {
            o +=
                weights[j] / total * v[static_cast<size_t>((rows[j] * c.kv_heads + g) * c.dim + i)];
          }
          y[static_cast<size_t>((rows[t] * c.heads + h) * c.dim + i)] = o;
        }
      }
    }
  }
  return y;
}

Tensor normal(const Shape& shape, Dtype dtype, uint64_t stream) {
  const Tensor t(shape, dtype);
  kernels::fill_normal(t, 0.0, 1.0, 3, stream);
  return t;
}

const Case cases[] = {
    {{{5, {3, 1, 4}}, {0, {7}}, {6, {}}, {1, {1}}}, 4, 2, 8, false},
    {{{17, {20, 33}}, {0, {2, 2}}, {40, {1}}}, 3, 3, 5, true},
    {{{0, {1}}}, 1, 1, 1, false},
    {{{5, {3, 1, 4}}, {0, {37}}}, 4, 2, 8, false, 0.6},
    {{{9, {2}}}, 2, 1, 16, true, 1.5},
    {{{300, {150, 20, 290}}, {0, {513}}}, 2, 1, 16, true},  // more rows than a block has
};

TEST(VarlenAttention, IsAttentionOverEverySequence) {
  for (const Case& c : cases) {
    const VarlenRows rows(c.groups, Device::cpu());
    std::vector<double> slopes;
    // Powers of two, and so small that bf16 rounds what they add to a score to a hundredth.
    for (int64_t h = 0; h < c.heads; ++h)
      slopes.push_back(std::ldexp(1.0, -8 - static_cast<int>(h)));
    const Tensor alibi = c.alibi ? Tensor::from(slopes, {c.heads}, Dtype::f32) : Tensor();
    for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::bf16}) {
      const Tensor q = normal({rows.rows(), c.heads * c.dim}, dtype, 1);
      const Tensor k = normal({rows.rows(), c.kv_heads * c.dim}, dtype, 2);
      const Tensor v = normal({rows.rows(), c.kv_heads * c.dim}, dtype, 3);
      const auto want =
          expected(c, q.to_vector<double>(), k.to_vector<double>(), v.to_vector<double>(), slopes);
      const double tolerance = dtype == Dtype::bf16 ? 2e-2 : dtype == Dtype::f32 ? 1e-5 : 1e-12;
      const auto compare = [&](const Tensor& y) {
        ASSERT_EQ(y.shape(), q.shape());
        const auto got = y.to_vector<double>();
        EXPECT_LE(largest_difference(got, want), tolerance)
            << name_of(dtype) << ", " << rows.rows() << " rows";
      };
      compare(kernels::varlen_attention(q, k, v, rows, c.heads, c.kv_heads, {alibi, c.cap}));
      compare(kernels::varlen_attention_rows(q, k, v, rows, c.heads, c.kv_heads, {alibi, c.cap}));
    }
  }
}

TEST(VarlenAttention, ManyGroupsDoNotDependOnThreads) {
  std::vector<VarlenGroup> groups;
  for (int64_t g = 0; g < 40; ++g) groups.push_back({g % 7, {1 + g % 5, 3}});
  const VarlenRows rows(groups, Device::cpu());
  const Tensor x = normal({rows.rows(), 32}, Dtype::f32, 1);
  const auto first = kernels::varlen_attention(x, x, x, rows, 4, 4).to_vector<float>();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(kernels::varlen_attention(x, x, x, rows, 4, 4).to_vector<float>(), first);
  }
}

TEST(VarlenAttention, NaNIsNotHidden) {
  const VarlenRows rows({{2, {2, 2}}}, Device::cpu());
  for (int64_t bad = 0; bad < 4; ++bad) {
    std::vector<float> values(6 * 4, 0.5f);
    values[static_cast<size_t>(bad * 4)] = NAN;
    const Tensor k = Tensor::from(values, {6, 4}), q = normal({6, 4}, Dtype::f32, 1);
    for (const Tensor& y : {kernels::varlen_attention(q, k, q, rows, 1, 1),
                            kernels::varlen_attention_rows(q, k, q, rows, 1, 1)}) {
      const auto got = y.to_vector<float>();
      for (int64_t r = 0; r < 6; ++r) {
        const bool sees = bad < 2 ? r >= bad : r >= bad && r < 4;
        EXPECT_EQ(std::isnan(got[static_cast<size_t>(r * 4)]), sees) << bad << " " << r;
      }
    }
  }
}

TEST(VarlenRows, PositionsAndViews) {
  const VarlenRows rows({{2, {1, 2}}, {0, {3}}}, Device::cpu());
  EXPECT_EQ(rows.rows(), 8);
  EXPECT_EQ(rows.longest(), 4);
  EXPECT_EQ(rows.begins(), (std::vector<int64_t>{0, 5}));
  EXPECT_EQ(rows.positions().to_vector<int32_t>(), (std::vector<int32_t>{0, 1, 2, 2, 3, 0, 1, 2}));
  EXPECT_EQ(rows.views().slice(4, 5).to_vector<int32_t>(), (std::vector<int32_t>{0, 2, 3, 2}));
  EXPECT_EQ(rows.views().slice(7, 8).to_vector<int32_t>(), (std::vector<int32_t>{5, 0, 5, 3}));
  using Groups = std::vector<VarlenGroup>;
  for (const Groups& wrong : {Groups{}, Groups{{}}, Groups{{3, {0}}}, Groups{{-1, {2}}}}) {
    expect_error<std::invalid_argument>([&] { VarlenRows(wrong, Device::cpu()); }, {"VarlenRows"});
  }
}

TEST(VarlenAttention, WrongArgumentsThrow) {
  const VarlenRows rows({{2, {1}}}, Device::cpu());
  const auto x = [](int64_t r, int64_t n) { return normal({r, n}, Dtype::f32, 1); };
  const auto refused = [&](const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                           int64_t kv_heads, const kernels::AttentionScores& scores) {
    expect_error<std::invalid_argument>(
        [&] { kernels::varlen_attention(q, k, v, rows, heads, kv_heads, scores); },
        {"varlen_attention"});
  };
  EXPECT_NO_THROW(kernels::varlen_attention(x(3, 8), x(3, 4), x(3, 4), rows, 4, 2));
  refused(x(4, 8), x(4, 8), x(4, 8), 2, 2, {});
  refused(x(3, 8), x(3, 8), x(3, 4), 2, 2, {});
  refused(x(3, 8), x(3, 4), x(3, 4), 2, 2, {});
  refused(x(3, 8), x(3, 8), x(3, 8), 3, 3, {});
  refused(x(3, 8), x(3, 8), x(3, 8), 4, 3, {});
  refused(x(3, 8), x(3, 8), kernels::cast(x(3, 8), Dtype::f64), 2, 2, {});
  refused(x(3, 8), x(3, 8), x(3, 8), 2, 2, Tensor::zeros({3}, Dtype::f32));
  refused(x(3, 8), x(3, 8), x(3, 8), 2, 2, {Tensor(), -1.0});
}

}  // namespace
}  // namespace cbq::test_varlen_attention
