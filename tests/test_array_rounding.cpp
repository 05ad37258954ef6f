// A scheme of array functions beside the same scheme as scalar math.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/array_rounding.h"
#include "quant/rectified_sigmoid.h"
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

/// AdaRound's scalar functions, element by element.
ArrayScheme adaround() {
  using S = RectifiedSigmoid;
  ArrayScheme s;
  s.name = "array_adaround";
  s.help = "floor(w/s) + h(v), by arrays";
  s.relaxes = true;
  s.start = S::start;
  s.initial = [](const Tensor& u, Start start) {
    return mapped(u, [&]<class A>(int64_t i) { return S::initial(u.data<A>()[i], start); });
  };
  s.soft = [](const Tensor& u, const Tensor& v) {
    return mapped(u, [&]<class A>(int64_t i) { return S::soft(u.data<A>()[i], v.data<A>()[i]); });
  };
  s.hard = [](const Tensor& u, const Tensor& v) {
    return mapped(u, [&]<class A>(int64_t i) { return S::hard(u.data<A>()[i], v.data<A>()[i]); });
  };
  s.d_dv = [](const Tensor& u, const Tensor& v) {
    return mapped(u, [&]<class A>(int64_t i) { return S::d_dv(u.data<A>()[i], v.data<A>()[i]); });
  };
  s.relaxed = [](const Tensor& v) {
    return mapped(v, [&]<class A>(int64_t i) { return S::relaxed(v.data<A>()[i]); });
  };
  s.d_relaxed = [](const Tensor& v) {
    return mapped(v, [&]<class A>(int64_t i) { return S::d_relaxed(v.data<A>()[i]); });
  };
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

/// Equal bits; of f64 sums nearly, where exp() keeps the scalar loop from being vectorized.
void expect_sums(const Tensor& a, const Tensor& b, Dtype dtype) {
  if (dtype != Dtype::f64) {
    EXPECT_EQ(values(a), values(b));
    return;
  }
  ASSERT_EQ(a.count(), b.count());
  for (size_t i = 0; i < values(a).size(); ++i) EXPECT_NEAR(values(a)[i], values(b)[i], 1e-11);
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
    expect_sums(a.scale, b.scale, pass.w.dtype());
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

TEST(ArrayRounding, IsTheSchemeOfScalarMath) {
  const Layout layouts[] = {{Granularity::per_tensor, 7, 24, 0},
                            {Granularity::per_group, 7, 24, 8},
                            {Granularity::per_channel, 50, 24, 0},
                            {Granularity::per_channel, 2, 1100, 0},
                            {Granularity::per_group, 2, 1100, 550}};
  const std::pair<ArrayScheme, const char*> pairs[] = {{adaround(), "adaround"},
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
  const auto scheme = array_rounding(adaround());
  EXPECT_EQ(scheme->name(), "array_adaround");
  EXPECT_TRUE(scheme->relaxes());
  EXPECT_EQ(scheme->default_start(), Start::fraction);
  EXPECT_EQ(scheme->math(), nullptr);
  EXPECT_DOUBLE_EQ(scheme->default_rate(4), 0.01);
}

TEST(ArrayRounding, WhatDoesNotFitIsNamed) {
  using Invalid = std::invalid_argument;
  ArrayScheme s = adaround();
  s.hard = nullptr;
  expect_error<Invalid>([&] { array_rounding(s); }, {"array_adaround", "no hard"});
  s = adaround();
  s.d_relaxed = nullptr;
  expect_error<Invalid>([&] { array_rounding(s); }, {"relaxed and d_relaxed"});
  const RoundingPass pass =
      make_pass(*rounding_schemes().make("adaround"), Parameterization::dense, Dtype::f32);
  s = adaround();
  s.soft = [](const Tensor&, const Tensor&) { return Tensor::zeros({2, 2}, Dtype::f32); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); },
                        {"array_adaround", "soft gave", "[2, 2]", "[7, 24]"});
  s.soft = [](const Tensor& u, const Tensor&) { return Tensor::zeros(u.shape(), Dtype::f64); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); }, {"f64", "expected f32"});
  s.initial = [](const Tensor&, Start) { return Tensor(); };
  expect_error<Invalid>([&] { array_rounding(s)->forward(pass); }, {"initial gave nothing"});
  s = adaround();
  s.hard = s.soft;
  expect_error<Invalid>([&] { array_rounding(s)->codes(pass); }, {"hard gave", "no integer"});
  s.hard = [](const Tensor& u, const Tensor&) {
    return Tensor::from(std::vector<float>(static_cast<size_t>(u.count()), NAN), u.shape(),
                        u.dtype());
  };
  expect_error<Invalid>([&] { array_rounding(s)->codes(pass); }, {"hard gave NaN"});
}

}  // namespace
}  // namespace cbq::test::test_array_rounding
