// Norms of a row with their derivatives: the ops of kernels/norm.cu and the fused quantizers of
// tokens (quant/token_prologues.h) call these.
//
// `row` is a row of kernels/launch/launch.h, and x, w, g are its operands: n elements each. What
// the whole row shares is measured first (Statistics, which are stored number by number: g++ does
// not vectorize loops that read a struct copied as a whole); value() and gradient() then take
// elements. g is dL/dy, x^ the normalized element.
#pragma once

#include "kernels/formulas/device_math.h"
#include "kernels/formulas/multi_reduce.h"

namespace cbq::formulas {

/// 1 / sqrt(sum / n + eps).
template <class A>
CBQ_HD A inverse_root_of_mean(A sum, int64_t n, A eps) {
  return A(1) / math::sqrt(sum / A(n) + eps);
}

/// y = x^ w,  x^ = x / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019). x^ is rounded to T before the
/// product, as transformers' LLaMA does.
/// dL/dx = inverse (w g - x inverse mean),  mean = inverse sum_j w_j g_j x_j / n.
template <class T>
struct RmsNorm {
  using A = acc_t<T>;
  struct Statistics {
    A inverse;  // 1 / sqrt(mean(x^2) + eps)
    static constexpr int numbers = 1;
    CBQ_HD void store(A* at) const { at[0] = inverse; }
    CBQ_HD static Statistics stored(const A* at) { return {at[0]}; }
  };
  template <class Row, class X>
  CBQ_HD static Statistics measure(const Row& row, const X& x, int64_t n, A eps) {
    return {inverse_root_of_mean(row.sum([](A x_j) { return x_j * x_j; }, x), n, eps)};
  }
  CBQ_HD static A value(const Statistics& of, A x, A w) {
    return device_math::rounded<T>(x * of.inverse) * w;
  }

  struct Means {
    A along;
  };
  template <class Row, class G, class X, class W>
  CBQ_HD static Means means(const Row& row, const Statistics& of, int64_t n, const G& g, const X& x,
                            const W& w) {
    const auto term = [](A w_j, A g_j, A x_j) { return w_j * g_j * x_j; };
    return {row.sum(term, w, g, x) * of.inverse / A(n)};
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A g, A x, A w) {
    return of.inverse * (w * g - x * of.inverse * mean.along);
  }
  /// One row's part of dL/dw.
  CBQ_HD static A weight_gradient(const Statistics& of, A g, A x) { return g * x * of.inverse; }
};

/// y = x^ w + b,  x^ = (x - mean(x)) / sqrt(variance(x) + eps), the biased variance (Ba et al.
/// 2016); without w and b, y = x^. The mean is subtracted before squaring: mean(x^2) - mean(x)^2
/// would cancel where the mean is large.
/// With h = g w:  dL/dx = inverse (h - mean(h) - x^ mean(h x^)).
template <class T>
struct LayerNorm {
  using A = acc_t<T>;
  struct Statistics {
    A mean;
    A inverse;  // 1 / sqrt(variance + eps)
    static constexpr int numbers = 2;
    CBQ_HD void store(A* at) const {
      at[0] = mean;
      at[1] = inverse;
    }
    CBQ_HD static Statistics stored(const A* at) { return {at[0], at[1]}; }
  };
  template <class Row, class X>
  CBQ_HD static Statistics measure(const Row& row, const X& x, int64_t n, A eps) {
    const A center = row.sum([](A x_j) { return x_j; }, x) / A(n);
    const auto square = [center](A x_j) { return (x_j - center) * (x_j - center); };
    return {center, inverse_root_of_mean(row.sum(square, x), n, eps)};
  }
  /// x^.
  CBQ_HD static A value(const Statistics& of, A x) { return (x - of.mean) * of.inverse; }
  CBQ_HD static A value(const Statistics& of, A x, A w, A b) { return value(of, x) * w + b; }

  struct Means {
    A gradient, along;
  };
  /// Without w, h = g.
  template <class Row, class H, class X>
  CBQ_HD static Means means(const Row& row, const Statistics& of, int64_t n, const H& h,
                            const X& x) {
    const auto terms = [of](A h_j, A x_j) {
      return MultiReduce<A, 2>{{h_j, h_j * value(of, x_j)}};
    };
    const MultiReduce<A, 2> sums = row.sum(terms, h, x);
    return {sums.at[0] / A(n), sums.at[1] / A(n)};
  }
  template <class Row, class G, class X, class W>
  CBQ_HD static Means means(const Row& row, const Statistics& of, int64_t n, const G& g, const X& x,
                            const W& w) {
    const auto terms = [of](A g_j, A x_j, A w_j) {
      const A h_j = w_j * g_j;
      return MultiReduce<A, 2>{{h_j, h_j * value(of, x_j)}};
    };
    const MultiReduce<A, 2> sums = row.sum(terms, g, x, w);
    return {sums.at[0] / A(n), sums.at[1] / A(n)};
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A h, A x) {
    return of.inverse * (h - mean.gradient - value(of, x) * mean.along);
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A g, A x, A w) {
    return gradient(of, mean, w * g, x);
  }
  /// One row's part of dL/dw. (That of dL/db is g.)
  CBQ_HD static A weight_gradient(const Statistics& of, A g, A x) { return g * value(of, x); }
};

}  // namespace cbq::formulas
