// The contract of every registered rounding scheme that is scalar math: forward is what it
// declares, gradients are those of central differences. The rest: test_rounding.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/rounding_contract.h"

namespace cbq::test::test_rounding_math {
namespace {

/// p of a pass as doubles [out, in].
std::vector<double> variables_of(const RoundingPass& pass) {
  const int64_t out = pass.w.size(0), in = pass.w.size(1);
  if (pass.dense.defined()) return pass.dense.to_vector<double>();
  std::vector<double> p(static_cast<size_t>(out * in), 0.0);
  if (!pass.a1.defined()) return p;
  const auto a1 = pass.a1.to_vector<double>(), a2 = pass.a2.to_vector<double>();
  const int64_t rank = pass.a1.size(1);
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      for (int64_t k = 0; k < rank; ++k) {
        p[static_cast<size_t>(i * in + j)] +=
            a1[static_cast<size_t>(i * rank + k)] * a2[static_cast<size_t>(k * in + j)];
      }
    }
  }
  return p;
}

/// One weight at the point (s, p) where its derivatives are asked for.
struct Point {
  const RoundingMath* math;
  bool hard;
  double w, z, largest, unit, u0, v_start, raw0, v0, r0;
  bool inside;

  Point(const RoundingPass& pass, const RoundingMath* functions, size_t i, double s, double p)
      : math(functions), hard(pass.hard), largest(max_code(pass.bits)) {
    w = pass.w.data<double>()[i];
    z = pass.zero_point.data<double>()[scale_index(pass, i)];
    unit = pass.unit.data<double>()[scale_index(pass, i)];
    u0 = w / s;
    v_start = math->initial(u0, pass.start);
    raw0 = raw(s, p);
    v0 = std::clamp(raw0, math->v_min, math->v_max);
    r0 = (hard ? math->hard : math->soft)(u0, v0);
    inside = r0 + z >= 0.0 && r0 + z <= largest;
  }
  /// v before the bounds.
  double raw(double s, double p) const {
    return v_start + (math->v_in_weight_units ? p * unit / s : p);
  }
  double value(double s) const { return s * (std::clamp(r0 + z, 0.0, largest) - z); }
  /// W^ as a function of (s, p) in which what is declared straight-through, and only that, is
  /// linear: r in u, in v where the scheme says so, and the bounds of v. The side of a clip end
  /// does not change.
  double surrogate(double s, double p) const {
    if (!inside) return value(s);
    const double dv = raw(s, p) - raw0;
    const double through_v =
        hard || math->straight_through_v ? r0 + math->d_dv(u0, v0) * dv : math->soft(u0, v0 + dv);
    return s * (through_v + math->d_du(u0, v0) * (w / s - u0));
  }
  /// h of the regularizer.
  double relaxed(double s, double p) const {
    return math->relaxed(std::clamp(raw(s, p), math->v_min, math->v_max));
  }
  /// The gradient d with respect to v as backward should give it: none that leads out of the
  /// bounds.
  double bounded(double d) const {
    return (raw0 >= math->v_max && d < 0) || (raw0 <= math->v_min && d > 0) ? 0.0 : d;
  }
};

TEST_P(RoundingContract, ForwardIsTheDeclaredMath) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  for (const Layout& layout : layouts()) {
    RoundingPass pass = this->pass(layout);
    const auto s = pass.scale.to_vector<double>(), p = variables_of(pass);
    for (bool hard : phases()) {
      pass.hard = hard;
      const auto y = scheme_->forward(pass).to_vector<double>();
      for (size_t i = 0; i < y.size(); ++i) {
        const double si = s[scale_index(pass, i)];
        const Point at(pass, math, i, si, p[i]);
        EXPECT_NEAR(y[i], at.value(si), 1e-12) << "weight " << i << ", hard " << hard;
      }
    }
  }
}

/// d/dx of sum_i g_i surrogate_i, by central differences, where `at(step)` gives the sum.
template <class F>
double difference(const F& at, double step) {
  return (at(step) - at(-step)) / (2 * step);
}

/// Expects the gradients of dense or low-rank variables that belong to dL/dp. For low rank the
/// chain through p = A1 A2 is a matrix product.
void expect_variable_gradients(const RoundingPass& pass, const RoundingGradients& found,
                               const std::vector<double>& dp, double tolerance) {
  using kernels::Trans;
  const auto expect_near = [&](const char* what, const Tensor& got, const Tensor& want) {
    const auto x = got.to_vector<double>(), y = want.to_vector<double>();
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], tolerance) << what << " " << i;
  };
  const Tensor d = Tensor::from(dp, pass.w.shape());
  if (pass.dense.defined()) expect_near("p", found.dense, d);
  if (pass.a1.defined()) {
    expect_near("A1", found.a1, kernels::matmul(d, Trans::no, pass.a2, Trans::yes));
    expect_near("A2", found.a2, kernels::matmul(pass.a1, Trans::yes, d, Trans::no));
  }
}

TEST_P(RoundingContract, GradientsMatchCentralDifferences) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  for (const Layout& layout : layouts()) {
    for (bool hard : phases()) {
      RoundingPass pass = this->pass(layout);
      pass.hard = hard;
      const Tensor dw = normal(pass.w.shape(), 1.0, 5, Dtype::f64);
      const auto g = dw.to_vector<double>(), p = variables_of(pass);
      const auto s = pass.scale.to_vector<double>();
      std::vector<Point> points;
      int inside = 0;
      for (size_t i = 0; i < g.size(); ++i) {
        points.emplace_back(pass, math, i, s[scale_index(pass, i)], p[i]);
        inside += points.back().inside ? 1 : 0;
      }
      ASSERT_GT(inside, 0);
      ASSERT_LT(inside, static_cast<int>(g.size())) << "the case does not reach the clip ends";
      const RoundingGradients found = scheme_->backward(pass, dw, {});

      const auto d_scale = found.scale.to_vector<double>();
      for (size_t k = 0; k < s.size(); ++k) {
        const auto moved = [&](double step) {
          double total = 0.0;
          for (size_t i = 0; i < g.size(); ++i) {
            if (scale_index(pass, i) == k) total += g[i] * points[i].surrogate(s[k] + step, p[i]);
          }
          return total;
        };
        EXPECT_NEAR(d_scale[k], difference(moved, 1e-7), 2e-5 * (1 + std::abs(d_scale[k])))
            << "scale " << k << ", hard " << hard;
      }

      // dL/dp of every weight; for low rank the chain through p = A1 A2 is a matrix product.
      std::vector<double> dp(g.size());
      for (size_t i = 0; i < g.size(); ++i) {
        const double si = s[scale_index(pass, i)];
        const auto moved = [&](double step) { return g[i] * points[i].surrogate(si, p[i] + step); };
        dp[i] = points[i].bounded(difference(moved, 1e-6));
      }
      expect_variable_gradients(pass, found, dp, 1e-6);
    }
  }
}

TEST_P(RoundingContract, NoGradientLeadsOutOfTheBounds) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  if (!std::isfinite(math->v_max)) return;  // no bounds to keep to
  RoundingPass pass = make_pass(*scheme_, Parameterization::dense, Dtype::f64);
  pass.start = Start::zero;
  pass.scale = Tensor::from(std::vector<double>(7, 1.0), {7, 1});  // nothing clips
  pass.zero_point = Tensor::from(std::vector<double>(7, 3.0), {7, 1});
  pass.unit = pass.scale;
  pass.hard = true;
  for (const double sign : {1.0, -1.0}) {
    // Beyond the upper (lower) bound: descent on a negative (positive) gradient would lead on.
    kernels::fill(pass.dense, sign > 0 ? math->v_max + 0.25 : math->v_min - 0.25);
    Tensor dw(pass.w.shape(), Dtype::f64);
    kernels::fill(dw, -sign);
    for (double d : scheme_->backward(pass, dw, {}).dense.to_vector<double>()) EXPECT_EQ(d, 0.0);
    kernels::fill(dw, sign);
    for (double d : scheme_->backward(pass, dw, {}).dense.to_vector<double>()) {
      EXPECT_GT(sign * d, 0.0);
    }
  }
}

// Without any gradient of the weight, what backward gives is the regularizer's alone: in the
// variables, and in the scale where p is an offset of the weight, v = v0 + p unit / s. (v0 depends
// on the scale, too, but carries no gradient.)
TEST_P(RoundingContract, RegularizerAndItsGradient) {
  const RoundingMath* math = scheme_->math();
  if (math == nullptr) GTEST_SKIP() << "not scalar math";
  const RoundingRegularizer regularizer{0.25, 3.0};
  for (const Layout& layout : layouts()) {
    const RoundingPass pass = this->pass(layout);
    const Tensor dw = Tensor::zeros(pass.w.shape(), Dtype::f64);
    const RoundingGradients found = scheme_->backward(pass, dw, regularizer);
    const auto s = pass.scale.to_vector<double>(), p = variables_of(pass);
    std::vector<double> dp(p.size(), 0.0), ds(s.size(), 0.0);
    double total = 0.0;
    for (size_t i = 0; scheme_->relaxes() && i < p.size(); ++i) {
      const size_t k = scale_index(pass, i);
      const Point at(pass, math, i, s[k], p[i]);
      const auto term = [&](double ds_step, double dp_step) {
        const double h = at.relaxed(s[k] + ds_step, p[i] + dp_step);
        return 0.25 * (1.0 - std::pow(std::abs(2 * h - 1), 3.0));
      };
      total += term(0.0, 0.0);
      dp[i] = difference([&](double step) { return term(0.0, step); }, 1e-6);
      ds[k] += difference([&](double step) { return term(step, 0.0); }, 1e-6 * s[k]);
    }
    expect_variable_gradients(pass, found, dp, 1e-6);
    const auto scale = found.scale.to_vector<double>();
    for (size_t k = 0; k < ds.size(); ++k) {
      EXPECT_NEAR(scale[k], ds[k], 1e-6 * (1 + std::abs(ds[k]))) << "scale " << k;
    }
    EXPECT_NEAR(scheme_->regularizer(pass, regularizer), total, 1e-9 * (1 + total));
  }
}

}  // namespace
}  // namespace cbq::test::test_rounding_math
