// A scheme of array functions beside the same scheme as scalar math: every bit is the same.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/array_rounding.h"
#include "tests/rounding_contract.h"
#include "tests/test_data.h"

namespace cbq::test::test_array_rounding {
namespace {

/// f(i) of every element, in the tensor's own precision.
template <class F>
Tensor mapped(const Tensor& like, F&& f) {
  Tensor y(like.shape(), like.dtype());
  const auto fill = [&]<class A>(A* to) {
    for (int64_t i = 0; i < y.count(); ++i) to[i] = f.template operator()<A>(i);
  };
  like.dtype() == Dtype::f64 ? fill(y.data<double>()) : fill(y.data<float>());
  return y;
}

/// The scheme of docs/add-a-rounding-scheme.md, which the tests have as "linear", with arrays.
ArrayScheme linear() {
  ArrayScheme s;
  s.name = "array_linear";
  s.help = "floor(w/s) + v, by arrays";
  s.relaxes = true;
  s.v_min = 0.0;
  s.v_max = 1.0;
  s.start = Start::fraction;
  s.initial = [](const Tensor& u, Start start) {
    return mapped(u, [&]<class A>(int64_t i) {
      const A x = u.data<A>()[i];
      if (start == Start::zero) return A(0);
      return (start == Start::fraction ? x : std::rint(x)) - std::floor(x);
    });
  };
  s.soft = [](const Tensor& u, const Tensor& v) {
    return mapped(u,
                  [&]<class A>(int64_t i) { return std::floor(u.data<A>()[i]) + v.data<A>()[i]; });
  };
  s.hard = [](const Tensor& u, const Tensor& v) {
    return mapped(u, [&]<class A>(int64_t i) {
      return std::floor(u.data<A>()[i]) + (v.data<A>()[i] >= A(0.5) ? A(1) : A(0));
    });
  };
  s.relaxed = [](const Tensor& v) { return v.clone(); };
  s.d_relaxed = [](const Tensor& v) { return mapped(v, []<class A>(int64_t) { return A(1); }); };
  return s;
}

/// SignRound with every function written out, so that ones from arrays are not the default ones.
ArrayScheme signround() {
  ArrayScheme s;
  s.name = "array_signround";
  s.v_min = -0.5;
  s.v_max = 0.5;
  s.hard = [](const Tensor& u, const Tensor& v) {
    return mapped(u,
                  [&]<class A>(int64_t i) { return std::rint(u.data<A>()[i] + v.data<A>()[i]); });
  };
  s.d_dv = s.d_du = [](const Tensor& u, const Tensor&) {
    return mapped(u, []<class A>(int64_t) { return A(1); });
  };
  return s;
}

std::vector<double> values(const Tensor& t) {
  return t.defined() ? t.to_vector<double>() : std::vector<double>();
}

void expect_equal(const RoundingScheme& arrays, const RoundingScheme& scalars,
                  const RoundingPass& pass) {
  EXPECT_EQ(values(arrays.forward(pass)), values(scalars.forward(pass)));
  EXPECT_EQ(values(arrays.codes(pass)), values(scalars.codes(pass)));
  const Tensor dw = normal(pass.w.shape(), 1.0, 6, pass.w.dtype());
  RoundingRegularizer regularizer{0.1, 4.0, {}};
  const Tensor now = Tensor::from<double>({0.2, 3.0}, {2});
  for (const Tensor& numbers : {Tensor(), now}) {
    regularizer.now = numbers;
    const RoundingGradients a = arrays.backward(pass, dw, regularizer);
    const RoundingGradients b = scalars.backward(pass, dw, regularizer);
    EXPECT_EQ(values(a.scale), values(b.scale));
    EXPECT_EQ(values(a.dense), values(b.dense));
    EXPECT_EQ(values(a.a1), values(b.a1));
    EXPECT_EQ(values(a.a2), values(b.a2));
    EXPECT_EQ(values(a.zero_point), values(b.zero_point));
  }
  EXPECT_EQ(values(arrays.weight_gradient(pass, dw)), values(scalars.weight_gradient(pass, dw)));
  const double expected = scalars.regularizer(pass, {0.1, 4.0, {}});
  EXPECT_NEAR(arrays.regularizer(pass, {0.1, 4.0, {}}), expected, 1e-5 * (1 + expected));
}

struct Layout {
  Granularity granularity;
  int64_t out, in, group;
};

TEST(ArrayRounding, IsTheSchemeOfScalarMathBitByBit) {
  const Layout layouts[] = {{Granularity::per_tensor, 7, 24, 0},
                            {Granularity::per_group, 7, 24, 8},
                            {Granularity::per_channel, 50, 24, 0},
                            {Granularity::per_channel, 2, 1100, 0},
                            {Granularity::per_group, 2, 1100, 550}};
  const std::pair<ArrayScheme, const char*> pairs[] = {{linear(), "linear"},
                                                       {signround(), "signround"}};
  for (const auto& [scheme, name] : pairs) {
    const auto arrays = array_rounding(scheme);
    const auto scalars = rounding_schemes().make(name);
    for (const Layout& l : layouts) {
      for (auto p : {Parameterization::none, Parameterization::dense, Parameterization::low_rank}) {
        for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
          RoundingPass pass = make_pass(*scalars, p, dtype, l.granularity, l.out, l.in, l.group);
          pass.wants_zero_point = true;
          for (const bool hard : {false, true}) {
            pass.hard = hard;
            SCOPED_TRACE(
                concat(name, " ", name_of(p), " ", dtype, " ", pass.w.shape(), " hard ", hard));
            expect_equal(*arrays, *scalars, pass);
          }
        }
      }
    }
  }
}

TEST(ArrayRounding, DescribesItself) {
  const auto scheme = array_rounding(linear());
  EXPECT_EQ(scheme->name(), "array_linear");
  EXPECT_TRUE(scheme->relaxes());
  EXPECT_EQ(scheme->default_start(), Start::fraction);
  EXPECT_EQ(scheme->math(), nullptr);
  EXPECT_DOUBLE_EQ(scheme->default_rate(4), 0.01);
}

TEST(ArrayRounding, WhatDoesNotFitIsNamed) {
  using Invalid = std::invalid_argument;
  ArrayScheme s = linear();
  s.hard = nullptr;
  expect_error<Invalid>([&] { array_rounding(s); }, {"array_linear", "no hard"});
  s = linear();
  s.d_relaxed = nullptr;
  expect_error<Invalid>([&] { array_rounding(s); }, {"relaxed and d_relaxed"});
  const RoundingPass pass =
      make_pass(*rounding_schemes().make("linear"), Parameterization::dense, Dtype::f32);
  s = linear();
  s.soft = [](const Tensor&, const Tensor&) { return Tensor::zeros({2, 2}, Dtype::f32); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); },
                        {"array_linear", "soft gave", "[2, 2]", "[7, 24]"});
  s.soft = [](const Tensor& u, const Tensor&) { return Tensor::zeros(u.shape(), Dtype::f64); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); }, {"f64", "expected f32"});
  s.initial = [](const Tensor&, Start) { return Tensor(); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); }, {"initial gave nothing"});
  s = linear();
  s.hard = s.soft;
  expect_error<Invalid>([&] { array_rounding(s)->codes(pass); }, {"hard gave", "no integer"});
}

}  // namespace
}  // namespace cbq::test::test_array_rounding
