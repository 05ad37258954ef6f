// Attention on tensor cores (kernels/attention/fused_attention.h) against an f64 reference of naive
// loops, on a GPU where there is one, and as emulated grids in cbq_simt_tests.
//
// Tolerances are derived, element by element, from where the kernels round to bf16 (by at most
// u = 2^-8 of a value): P before its products with V and dO, dS before its products with Q and K,
// and results; D carries the rounding of o. Everything else is f32, allowed for by 2^-12 of the
// same sums of absolute values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/attention/fused_attention.h"
#include "kernels/launch/tuned_switch.h"
#include "tensor/runtime/stream_graph.h"
#include "tests/grid_device.h"
#include "tests/test_data.h"

namespace cbq {
namespace {

using kernels::AttentionHeads;

struct Case {
  AttentionHeads heads;
  int64_t tokens, dim;
  bool alibi = false;
  double spread = 1.5;   // of q: how far scores lie apart
  double typical = 2.0;  // root mean square of errors of dq and dk, in units of 2^-8 of theirs

  std::string name() const {
    return concat(heads.batch, " x ", tokens, " tokens, ", heads.heads, "/", heads.kv_heads,
                  " heads of ", dim, alibi ? ", ALiBi" : "", ", spread ", spread);
  }
};

struct Inputs {
  Tensor q, k, v, d_o, slopes;
};

Inputs inputs_of(const Case& c, Device device) {
  const auto make = [&](int64_t heads, double deviation, uint64_t stream) {
    Tensor t({c.heads.batch * c.tokens, heads * c.dim}, Dtype::f32);
    kernels::fill_normal(t, 0.0, deviation, 31, stream);
    return kernels::cast(t, Dtype::bf16).to(device);
  };
  Inputs in{make(c.heads.heads, c.spread, 1), make(c.heads.kv_heads, 1.0, 2),
            make(c.heads.kv_heads, 1.0, 3), make(c.heads.heads, 1.0, 4), Tensor()};
  if (c.alibi) {
    std::vector<float> slopes;
    for (int64_t h = 0; h < c.heads.heads; ++h)
      slopes.push_back(0.5f / static_cast<float>(h + 1) - 0.1f);  // some favor the past
    in.slopes = Tensor::from(slopes, {c.heads.heads}).to(device);
  }
  return in;
}

/// A value, and the sums of absolute values that its error is measured by.
struct Bounded {
  std::vector<double> value, bound;
  explicit Bounded(int64_t n) : value(static_cast<size_t>(n)), bound(static_cast<size_t>(n)) {}
};

constexpr double unit = 0x1p-8, small = 0x1p-12;

/// Naive attention and its gradients, from the definition.
struct Reference {
  Bounded o, log_sum, dq, dk, dv;
  Reference(const Case& c, const Inputs& in);

 private:
  struct Arrays {
    std::vector<double> q, k, v, d_o, slopes;
  };
  void add_head(const Case& c, const Arrays& a, int64_t element, int64_t head);
};

Reference::Reference(const Case& c, const Inputs& in)
    : o(in.q.count()),
      log_sum(c.heads.batch * c.heads.heads * c.tokens),
      dq(in.q.count()),
      dk(in.k.count()),
      dv(in.k.count()) {
  const Arrays arrays{in.q.to_vector<double>(), in.k.to_vector<double>(), in.v.to_vector<double>(),
                      in.d_o.to_vector<double>(),
                      c.alibi ? in.slopes.to_vector<double>() : std::vector<double>()};
  for (int64_t b = 0; b < c.heads.batch; ++b)
    for (int64_t h = 0; h < c.heads.heads; ++h) add_head(c, arrays, b, h);
  for (Bounded* result : {&o, &dq, &dk, &dv})  // the result itself is rounded
    for (size_t i = 0; i < result->value.size(); ++i)
      result->bound[i] = 1.01 * result->bound[i] + unit * std::abs(result->value[i]) + 1e-6;
}

void Reference::add_head(const Case& c, const Arrays& a, int64_t element, int64_t head) {
  const int64_t kv = head / (c.heads.heads / c.heads.kv_heads);
  const double factor = 1.0 / std::sqrt(static_cast<double>(c.dim));
  const auto at = [&](int64_t token, int64_t h, int64_t heads) {
    return static_cast<size_t>(((element * c.tokens + token) * heads + h) * c.dim);
  };
  const auto dim = static_cast<size_t>(c.dim);
  for (int64_t i = 0; i < c.tokens; ++i) {
    const size_t qi = at(i, head, c.heads.heads);
    std::vector<double> s, p;
    double largest = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j <= i; ++j) {
      double score = 0.0;
      for (size_t d = 0; d < dim; ++d) score += a.q[qi + d] * a.k[at(j, kv, c.heads.kv_heads) + d];
      score *= factor;
      if (c.alibi) {
        const auto slope = static_cast<float>(a.slopes[static_cast<size_t>(head)]);
        score += static_cast<double>(static_cast<float>(bf16(slope * static_cast<float>(j))));
      }
      s.push_back(score);
      largest = std::max(largest, score);
    }
    for (double score : s) sum += std::exp(score - largest);
    const auto row = static_cast<size_t>((element * c.heads.heads + head) * c.tokens + i);
    log_sum.value[row] = largest + std::log(sum);
    // Scores of a few hundred are off by 2^-22 of their products.
    log_sum.bound[row] = 1e-5 + 1e-5 * std::abs(largest);
    for (double score : s) p.push_back(std::exp(score - log_sum.value[row]));

    double dots = 0.0, dots_bound = 0.0;
    for (size_t d = 0; d < dim; ++d) {
      double value = 0.0, absolute = 0.0;
      for (size_t j = 0; j < p.size(); ++j) {
        const double term = p[j] * a.v[at(static_cast<int64_t>(j), kv, c.heads.kv_heads) + d];
        value += term;
        absolute += std::abs(term);
      }
      o.value[qi + d] = value;
      o.bound[qi + d] = (unit + small) * absolute;
      dots += value * a.d_o[qi + d];
      dots_bound += std::abs(a.d_o[qi + d]) * ((unit + small) * absolute + unit * std::abs(value));
    }
    for (size_t j = 0; j < p.size(); ++j) {
      const size_t kj = at(static_cast<int64_t>(j), kv, c.heads.kv_heads);
      double dp = 0.0, dp_absolute = 0.0;
      for (size_t d = 0; d < dim; ++d) {
        dp += a.d_o[qi + d] * a.v[kj + d];
        dp_absolute += std::abs(a.d_o[qi + d] * a.v[kj + d]);
        dv.value[kj + d] += p[j] * a.d_o[qi + d];
        dv.bound[kj + d] += (unit + small) * std::abs(p[j] * a.d_o[qi + d]);
      }
      const double ds = p[j] * (dp - dots);
      const double ds_bound = p[j] * (dots_bound + small * (dp_absolute + std::abs(dots))) +
                              unit * (std::abs(ds) + p[j] * dots_bound);
      for (size_t d = 0; d < dim; ++d) {
        dq.value[qi + d] += factor * ds * a.k[kj + d];
        dq.bound[qi + d] += factor * ds_bound * std::abs(a.k[kj + d]);
        dk.value[kj + d] += factor * ds * a.q[qi + d];
        dk.bound[kj + d] += factor * ds_bound * std::abs(a.q[qi + d]);
      }
    }
  }
}

/// `typical`: the largest root of the mean square of errors, beside that of the values. Errors of
/// many terms cancel, so this is much less than their bounds, and sees a term that is missing.
void expect_within(const Tensor& got, const Bounded& want, const char* what, double typical) {
  const std::vector<double> x = got.to_vector<double>();
  ASSERT_EQ(x.size(), want.value.size()) << what;
  double errors = 0.0, squares = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(x[i] - want.value[i]);
    ASSERT_TRUE(error <= want.bound[i])  // false for NaN
        << what << " " << i << ": " << x[i] << ", not " << want.value[i] << " +- " << want.bound[i];
    errors += error * error;
    squares += want.value[i] * want.value[i];
  }
  const double n = static_cast<double>(x.size());
  EXPECT_LE(std::sqrt(errors / n), typical * std::sqrt(squares / n) + 1e-5) << what;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

class TunedAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!test::grid_device()) GTEST_SKIP() << "no CUDA device: cbq_simt_tests runs this";
    device_ = *test::grid_device();
    const Inputs in = inputs_of({{1, 1, 1}, 1, 64}, device_);
    if (!tuned::covers_attention({in.q, in.k, in.v, in.slopes, {1, 1, 1}}))
      GTEST_SKIP() << "CBQ_FAST=0, CBQ_ATTENTION=tiles, or a GPU with too little shared memory";
  }

  void check_against_reference(const Case& c) {
    SCOPED_TRACE(c.name());
    const Inputs in = inputs_of(c, device_);
    const Reference want(c, in);
    const long before = tuned::launches();
    const auto forward = kernels::attention(in.q, in.k, in.v, c.heads, in.slopes);
    EXPECT_EQ(tuned::launches(), before + 1);
    expect_within(forward.o, want.o, "o", unit);
    expect_within(forward.log_sum, want.log_sum, "log_sum", 1e-5);
    const auto [dq, dk, dv] =
        kernels::attention_backward(in.q, in.k, in.v, forward, in.d_o, c.heads, in.slopes);
    EXPECT_EQ(tuned::launches(), before + 4);
    expect_within(dq, want.dq, "dq", c.typical * unit);
    expect_within(dk, want.dk, "dk", c.typical * unit);
    expect_within(dv, want.dv, "dv", unit);
  }

  Device device_;
};

// Lengths around the edges of tiles, for every head size.
TEST_F(TunedAttention, AgreesWithTheReference) {
  for (int64_t dim : {64, 80, 96, 128})
    for (int64_t tokens : {1, 7, 63, 64, 65, 130})
      check_against_reference({{1, 1, 1}, tokens, dim});
  check_against_reference({{1, 1, 1}, 128, 64});
  check_against_reference({{1, 1, 1}, 257, 64});
  check_against_reference({{1, 1, 1}, 257, 128});
}

TEST_F(TunedAttention, GroupsBatchesAndAlibi) {
  check_against_reference({{2, 2, 2}, 65, 64});
  check_against_reference({{2, 6, 2}, 70, 64, true});
  check_against_reference({{1, 4, 1}, 130, 80});
  check_against_reference({{1, 2, 1}, 257, 96, true});
  check_against_reference({{2, 2, 1}, 7, 128, true});
}

// Scores far apart: the exponentials of most underflow, sums must not overflow. Where one key takes
// all, dP - D cancels, and what is left of dq and dk is largely the rounding of o in D.
TEST_F(TunedAttention, LargeScores) {
  check_against_reference({{1, 1, 1}, 200, 64, false, 200.0, 8.0});
}

// However the query heads of a group are divided, they are summed completely.
TEST_F(TunedAttention, PartsOfAGroupAddUp) {
  const Case c{{1, 4, 1}, 70, 64, true};
  const Inputs in = inputs_of(c, device_);
  const Reference want(c, in);
  const auto forward = kernels::attention(in.q, in.k, in.v, c.heads, in.slopes);
  for (int parts : {1, 2, 4}) {
    SCOPED_TRACE(concat(parts, " parts"));
    const auto like = [](const Tensor& t) { return Tensor(t.shape(), t.dtype(), t.device()); };
    const kernels::AttentionGradient got{like(in.q), like(in.k), like(in.v)};
    tuned::attention_backward({in.q, in.k, in.v, in.slopes, c.heads}, forward, in.d_o, got, parts);
    expect_within(got.dk, want.dk, "dk", 2 * unit);
    expect_within(got.dv, want.dv, "dv", unit);
  }
}

// Two launches; in the emulator the second one runs its blocks and threads in reverse.
TEST_F(TunedAttention, BytesRepeat) {
  const Case c{{1, 4, 2}, 150, 80, true};
  const Inputs in = inputs_of(c, device_);
  const auto run = [&] {
    const auto forward = kernels::attention(in.q, in.k, in.v, c.heads, in.slopes);
    const auto gradient =
        kernels::attention_backward(in.q, in.k, in.v, forward, in.d_o, c.heads, in.slopes);
    return std::vector<Tensor>{forward.o, forward.log_sum, gradient.dq, gradient.dk, gradient.dv};
  };
#ifdef CBQ_SIMT
  const auto in_order = [&](simt::InOrder::Order order) {
    const simt::InOrder fixed(order);
    return run();
  };
  const auto first = in_order(simt::InOrder::Order::forward);
  const auto second = in_order(simt::InOrder::Order::reverse);
#else
  const auto first = run(), second = run();
#endif
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(same_bytes(first[i], second[i])) << i;
}

TEST_F(TunedAttention, IsPartOfAGraph) {
  if (!device_.is_cuda()) GTEST_SKIP() << "graphs of CUDA need a CUDA device";
  const Case c{{1, 4, 2}, 150, 128, true};
  const Inputs in = inputs_of(c, device_);
  const auto like = [](const Tensor& t) { return Tensor(t.shape(), t.dtype(), t.device()); };
  const Tensor q = in.q.clone(), o = like(in.q), dq = like(in.q), dk = like(in.k), dv = like(in.v);
  const auto step = [&] {
    const auto forward = kernels::attention(q, in.k, in.v, c.heads, in.slopes);
    const auto gradient =
        kernels::attention_backward(q, in.k, in.v, forward, in.d_o, c.heads, in.slopes);
    o.copy_from(forward.o);
    dq.copy_from(gradient.dq);
    dk.copy_from(gradient.dk);
    dv.copy_from(gradient.dv);
  };
  step();
  const std::vector<Tensor> want = {o.clone(), dq.clone(), dk.clone(), dv.clone()};
  StepGraph graph(device_);
  graph.warm_up(step);
  ASSERT_TRUE(graph.capture(step)) << graph.trouble();
  q.fill_zero();
  graph.replay();
  EXPECT_FALSE(same_bytes(o, want[0])) << "a replay reads q anew";
  q.copy_from(in.q);
  graph.replay();
  const std::vector<Tensor> got = {o, dq, dk, dv};
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bytes(got[i], want[i])) << i;
}

// The two forms may even take turns: forward in one, backward in the other.
TEST_F(TunedAttention, AgreesWithTheReferenceKernel) {
  const Case c{{1, 2, 1}, 70, 64, true};
  const Inputs in = inputs_of(c, device_);
  const Reference want(c, in);
  const auto fused = kernels::attention(in.q, in.k, in.v, c.heads, in.slopes);
  const tuned::ReferenceKernels reference_kernels;
  const long before = tuned::launches();
  const auto tiles = kernels::attention(in.q, in.k, in.v, c.heads, in.slopes);
  const auto gradient =
      kernels::attention_backward(in.q, in.k, in.v, fused, in.d_o, c.heads, in.slopes);
  EXPECT_EQ(tuned::launches(), before);
  // The reference kernel rounds scores to bf16, too: those of up to 8 by up to 2^-5.
  const auto log_sum = tiles.log_sum.to_vector<double>();
  for (size_t i = 0; i < log_sum.size(); ++i) ASSERT_NEAR(log_sum[i], want.log_sum.value[i], 0.04);
  const auto a = fused.o.to_vector<double>(), b = tiles.o.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 0.05) << i;
  const auto dv = gradient.dv.to_vector<double>();
  for (size_t i = 0; i < dv.size(); ++i)
    ASSERT_NEAR(dv[i], want.dv.value[i], want.dv.bound[i] * 5 + 0.02) << i;
}

// What the kernels do not cover goes to the tiles, by itself.
TEST_F(TunedAttention, LeavesTheRestToTheTiles) {
  const auto takes = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    const long before = tuned::launches();
    EXPECT_EQ(kernels::attention(q, k, v, {1, 1, 1}).o.shape(), q.shape());
    return tuned::launches() > before;
  };
  const Inputs in = inputs_of({{1, 1, 1}, 9, 64}, device_);
  EXPECT_TRUE(takes(in.q, in.k, in.v));
  const long uncapped = tuned::launches();
  const kernels::AttentionScores scores(Tensor(), 2.0);
  const auto capped = kernels::attention(in.q, in.k, in.v, {1, 1, 1}, scores);
  kernels::attention_backward(in.q, in.k, in.v, capped, in.d_o, {1, 1, 1}, scores);
  EXPECT_EQ(tuned::launches(), uncapped) << "a soft cap of scores";
  const Inputs odd = inputs_of({{1, 1, 1}, 9, 72}, device_);
  EXPECT_FALSE(takes(odd.q, odd.k, odd.v)) << "heads of 72";
  for (Dtype dtype : {Dtype::f32, Dtype::f16}) {
    const auto as = [&](const Tensor& t) { return kernels::cast(t, dtype); };
    EXPECT_FALSE(takes(as(in.q), as(in.k), as(in.v))) << name_of(dtype);
  }
  const Tensor shifted =
      Tensor::zeros({9 * 64 + 4}, Dtype::bf16, device_).slice(4, 9 * 64 + 4).reshape({9, 64});
  EXPECT_FALSE(takes(in.q, shifted, in.v)) << "an address that 16 does not divide";
  const auto forward = kernels::attention(in.q, in.k, in.v, {1, 1, 1});
  const long before = tuned::launches();
  shifted.copy_from(in.d_o);
  const auto dq = kernels::attention_backward(in.q, in.k, in.v, forward, shifted, {1, 1, 1}).dq;
  EXPECT_EQ(tuned::launches(), before) << "of the output's gradient, too";
  EXPECT_EQ(dq.shape(), in.q.shape());
}

}  // namespace
}  // namespace cbq
