// What stands before the quantizers of a token's row: y = f(x), element by element, and back.
//
// The arithmetic is that of the kernels which compute y by themselves (kernels/norm.cu,
// activation.cu, elementwise.cu), operation by operation, so that y is the same bits on the CPU
// (tests/test_quantize_tokens.cpp).
//
// A source S is a set of static functions on what it reads of an element: a, the element of x; b,
// c, those of its further operands (`operands` in all).
//   Statistics                   numbers of a row that every element needs; `statistics` of them
//   gather<pass>(of, a, sum)              for each of `passes` passes over x: adds to a sum
//   conclude<pass>(of, sum, n, eps)       what the sum makes, into `of`: a Statistics
//   value(of, a, b, c)                    y before it is rounded to T
//   gradient(of, mean, a, b, g)           dL/da for g = dL/dy
//   second_gradient(a, b, g)              dL/db, where b is of a tensor like x
//   add_sums(of, a, b, g, first, second)  where dL/da needs sums over the row; `sums` of them
//   means(of, first, second, n)           the Means that gradient() takes
#pragma once

#include <cstdint>

#include "kernels/formulas/math.h"
#include "tensor/dtype.h"

namespace cbq::detail {

/// What most sources have in common: one operand, no numbers of the row.
template <class T>
struct ElementPrologue {
  using Element = T;
  using A = acc_t<T>;
  static constexpr int operands = 1, passes = 0, statistics = 0, sums = 0;
  static constexpr bool second_is_tensor = false;  // b is an element of a tensor like x
  static constexpr bool identity = false;
  struct Statistics {
    A first = 0, second = 0;
  };
  struct Means {
    A first = 0, second = 0;
  };
  template <int pass>
  CBQ_HD static void gather(const Statistics&, A, A&) {}
  template <int pass>
  CBQ_HD static void conclude(Statistics&, A, int64_t, A) {}
};

template <class T>
struct IdentityPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_activation";
  static constexpr bool identity = true;
  CBQ_HD static A value(const Statistics&, A a, A, A) { return a; }
  CBQ_HD static A gradient(const Statistics&, const Means&, A, A, A g) { return g; }
};

template <class T>
struct ReluPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_relu";
  CBQ_HD static A value(const Statistics&, A a, A, A) { return a < A(0) ? A(0) : a; }
  CBQ_HD static A gradient(const Statistics&, const Means&, A a, A, A g) {
    return a > A(0) ? g : A(0);
  }
};

template <class T>
struct GeluPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_gelu";
  static constexpr double slope = 0.79788456080286535588;  // sqrt(2 / pi)
  static constexpr double cubic = 0.044715;
  CBQ_HD static A value(const Statistics&, A a, A, A) {
    return a * math::sigmoid(A(2 * slope) * a * (A(1) + A(cubic) * a * a));
  }
  CBQ_HD static A gradient(const Statistics&, const Means&, A a, A, A g) {
    const A s = math::sigmoid(A(2 * slope) * a * (A(1) + A(cubic) * a * a));
    const A dz = A(2 * slope) * (A(1) + A(3 * cubic) * a * a);
    return g * (s + a * s * (A(1) - s) * dz);
  }
};

/// a: gate, b: up.
template <class T>
struct SwiGluPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_swiglu";
  static constexpr int operands = 2;
  static constexpr bool second_is_tensor = true;
  CBQ_HD static A value(const Statistics&, A a, A b, A) { return a * math::sigmoid(a) * b; }
  CBQ_HD static A gradient(const Statistics&, const Means&, A a, A b, A g) {
    const A s = math::sigmoid(a);
    return g * b * s * (A(1) + a * (A(1) - s));
  }
  /// dL/db.
  CBQ_HD static A second_gradient(A a, A, A g) { return g * a * math::sigmoid(a); }
};

/// b: weight. Statistics: 1 / rms.
template <class T>
struct RmsNormPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_rms_norm";
  static constexpr int operands = 2, passes = 1, statistics = 1, sums = 1;
  template <int pass>
  CBQ_HD static void gather(const Statistics&, A a, A& sum) {
    sum += a * a;
  }
  template <int pass>
  CBQ_HD static void conclude(Statistics& of, A sum, int64_t n, A eps) {
    of.first = A(1) / math::sqrt(sum / A(n) + eps);
  }
  CBQ_HD static A value(const Statistics& of, A a, A b, A) {
    const T normalized = T(a * of.first);  // rounded to the dtype before the product
    return A(normalized) * b;
  }
  CBQ_HD static void add_sums(const Statistics&, A a, A b, A g, A& first, A&) {
    first += b * g * a;
  }
  CBQ_HD static Means means(const Statistics& of, A first, A, int64_t n) {
    return {first * of.first / A(n)};
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A a, A b, A g) {
    return of.first * (b * g - a * of.first * mean.first);
  }
};

/// Without weights. Statistics: mean, 1 / deviation.
template <class T>
struct LayerNormPrologue : ElementPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  static constexpr const char* name = "quantize_layer_norm";
  static constexpr int passes = 2, statistics = 2, sums = 2;
  template <int pass>
  CBQ_HD static void gather(const Statistics& of, A a, A& sum) {
    if constexpr (pass == 0) {
      sum += a;
    } else {  // E[x^2] - E[x]^2 would cancel where the mean is large
      const A d = a - of.first;
      sum += d * d;
    }
  }
  template <int pass>
  CBQ_HD static void conclude(Statistics& of, A sum, int64_t n, A eps) {
    if constexpr (pass == 0) {
      of.first = sum / A(n);
    } else {
      of.second = A(1) / math::sqrt(sum / A(n) + eps);
    }
  }
  CBQ_HD static A value(const Statistics& of, A a, A, A) { return (a - of.first) * of.second; }
  CBQ_HD static void add_sums(const Statistics& of, A a, A, A g, A& first, A& second) {
    first += g;
    second += g * ((a - of.first) * of.second);
  }
  CBQ_HD static Means means(const Statistics&, A first, A second, int64_t n) {
    return {first / A(n), second / A(n)};
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A a, A, A g) {
    return of.second * (g - mean.first - (a - of.first) * of.second * mean.second);
  }
};

/// b: weight, c: bias.
template <class T>
struct AffineLayerNormPrologue : LayerNormPrologue<T> {
  using typename ElementPrologue<T>::A;
  using typename ElementPrologue<T>::Statistics;
  using typename ElementPrologue<T>::Means;
  using Plain = LayerNormPrologue<T>;
  static constexpr int operands = 3;
  CBQ_HD static A value(const Statistics& of, A a, A b, A c) {
    return Plain::value(of, a, A(0), A(0)) * b + c;
  }
  CBQ_HD static void add_sums(const Statistics& of, A a, A b, A g, A& first, A& second) {
    Plain::add_sums(of, a, A(0), b * g, first, second);
  }
  CBQ_HD static A gradient(const Statistics& of, const Means& mean, A a, A b, A g) {
    return Plain::gradient(of, mean, a, A(0), b * g);
  }
};

/// The tensors that a source reads, and where its numbers per row are kept for backward.
template <class S>
struct PrologueView {
  using Prologue = S;
  using T = typename Prologue::Element;
  using A = acc_t<T>;
  const T* x;       // [rows, n]
  const T* second;  // a tensor like x, or [n], or nullptr
  const T* third;   // [n], or nullptr
  A* statistics;    // [rows, Prologue::statistics], or nullptr
  int64_t n;
  A eps;

  /// What one row reads.
  struct Operands {
    const T *a, *b, *c;
    CBQ_HD A first(int64_t j) const { return A(a[j]); }
    CBQ_HD A second(int64_t j) const {
      if constexpr (Prologue::operands >= 2) return A(b[j]);
      return A(0);
    }
    CBQ_HD A third(int64_t j) const {
      if constexpr (Prologue::operands >= 3) return A(c[j]);
      return A(0);
    }
    /// y, rounded.
    CBQ_HD T value(const typename Prologue::Statistics& of, int64_t j) const {
      return T(Prologue::value(of, first(j), second(j), third(j)));
    }
  };
  CBQ_HD Operands operands(int64_t r) const {
    return {x + r * n, Prologue::second_is_tensor ? second + r * n : second, third};
  }

  template <class Row>
  CBQ_HD typename Prologue::Statistics measure(Row& row, int64_t r) const {
    typename Prologue::Statistics of;
    if constexpr (Prologue::passes > 0) measure_once<0>(row, x + r * n, of);
    if constexpr (Prologue::passes > 1) measure_once<1>(row, x + r * n, of);
    store(row, r, of);
    return of;
  }
  template <int pass, class Row>
  CBQ_HD void measure_once(Row& row, const T* in, typename Prologue::Statistics& of) const {
    const typename Prologue::Statistics before = of;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      Prologue::template gather<pass>(before, A(in[j]), sum);
    }
    Prologue::template conclude<pass>(of, row.sum(sum), n, eps);
  }
  template <class Row>
  CBQ_HD void store(Row& row, int64_t r, const typename Prologue::Statistics& of) const {
    if (Prologue::statistics == 0 || row.lane() != 0) return;
    statistics[r * Prologue::statistics] = of.first;
    if (Prologue::statistics > 1) statistics[r * Prologue::statistics + 1] = of.second;
  }
  CBQ_HD typename Prologue::Statistics measured(int64_t r) const {
    typename Prologue::Statistics of;
    if (Prologue::statistics > 0) of.first = statistics[r * Prologue::statistics];
    if (Prologue::statistics > 1) of.second = statistics[r * Prologue::statistics + 1];
    return of;
  }
};

}  // namespace cbq::detail
