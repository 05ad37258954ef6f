// What stands before the quantizers of a token's row: y = f(x), element by element, and back. The
// formulas are those of the ops that compute y by themselves (kernels/formulas/); sigmoids are
// the portable ones, because codes are decided from y.
//
// A prologue P reads `operands` elements of a row, x first: `tensors` of them belong to tensors
// like x, which have gradients; the others to parameters [n] that all rows share.
//   Statistics; measure(row, n, eps, x)   numbers of the row that every element needs; they are
//                                         stored for backward
//   value(of, x...)                       y before it is rounded to T
//   Means; means(row, of, n, g, x...)     where `sums`: what dL/dx needs of the whole row, g =
//   dL/dy gradient(of, means, g, x...)          the gradients of the tensors
#pragma once

#include <cstdint>

#include "kernels/formulas/activation.h"
#include "kernels/formulas/multi_reduce.h"
#include "kernels/formulas/norm.h"
#include "kernels/launch/vector.h"
#include "tensor/dtype.h"

namespace cbq::detail {

/// What functions of an element have in common: no numbers of the row.
template <class T>
struct ElementPrologue {
  using Element = T;
  using A = acc_t<T>;
  static constexpr int operands = 1, tensors = 1;
  static constexpr bool sums = false, identity = false;
  struct Statistics {
    static constexpr int numbers = 0;
    CBQ_HD void store(A*) const {}
    CBQ_HD static Statistics stored(const A*) { return {}; }
  };
  struct Means {};
  template <class Row, class X>
  CBQ_HD static Statistics measure(const Row&, int64_t, A, const X&) {
    return {};
  }
};

/// y = x.
template <class T>
struct IdentityPrologue : ElementPrologue<T> {
  using A = acc_t<T>;
  static constexpr bool identity = true;
  template <class Statistics>
  CBQ_HD static A value(const Statistics&, A x) {
    return x;
  }
  template <class Statistics, class Means>
  CBQ_HD static Stored<A, 1> gradient(const Statistics&, const Means&, A g, A) {
    return {{g}};
  }
};

/// y = Formula::value(x).
template <class T, class Formula>
struct UnaryPrologue : ElementPrologue<T> {
  using A = acc_t<T>;
  template <class Statistics>
  CBQ_HD static A value(const Statistics&, A x) {
    return Formula::value(x);
  }
  template <class Statistics, class Means>
  CBQ_HD static Stored<A, 1> gradient(const Statistics&, const Means&, A g, A x) {
    return {{Formula::gradient(x, g)}};
  }
};

/// y = Formula::value(a, b) of two tensors.
template <class T, class Formula>
struct BinaryPrologue : ElementPrologue<T> {
  using A = acc_t<T>;
  static constexpr int operands = 2, tensors = 2;
  template <class Statistics>
  CBQ_HD static A value(const Statistics&, A a, A b) {
    return Formula::value(a, b);
  }
  template <class Statistics, class Means>
  CBQ_HD static Stored<A, 2> gradient(const Statistics&, const Means&, A g, A a, A b) {
    const auto d = Formula::gradient(a, b, g);
    return {{d.a, d.b}};
  }
};

/// A norm of kernels/formulas/norm.h with its parameters: none, a weight, or a weight and a bias.
template <class T, class Formula, int parameters>
struct NormPrologue {
  using Element = T;
  using A = acc_t<T>;
  using Statistics = typename Formula::Statistics;
  using Means = typename Formula::Means;
  static constexpr int operands = 1 + parameters, tensors = 1;
  static constexpr bool sums = true, identity = false;

  template <class Row, class X>
  CBQ_HD static Statistics measure(const Row& row, int64_t n, A eps, const X& x) {
    return Formula::measure(row, x, n, eps);
  }
  template <class... P>
  CBQ_HD static A value(const Statistics& of, A x, P... of_parameters) {
    return Formula::value(of, x, of_parameters...);
  }
  template <class Row, class G, class X>
  CBQ_HD static Means means(const Row& row, const Statistics& of, int64_t n, const G& g,
                            const X& x) {
    return Formula::means(row, of, n, g, x);
  }
  template <class Row, class G, class X, class W, class... Bias>
  CBQ_HD static Means means(const Row& row, const Statistics& of, int64_t n, const G& g, const X& x,
                            const W& w, const Bias&...) {
    return Formula::means(row, of, n, g, x, w);
  }
  CBQ_HD static Stored<A, 1> gradient(const Statistics& of, const Means& mean, A g, A x) {
    return {{Formula::gradient(of, mean, g, x)}};
  }
  template <class... Bias>
  CBQ_HD static Stored<A, 1> gradient(const Statistics& of, const Means& mean, A g, A x, A w,
                                      Bias...) {
    return {{Formula::gradient(of, mean, g, x, w)}};
  }
};

/// The tensors that a prologue reads, and where its numbers per row are kept for backward.
template <class P>
struct PrologueView {
  using T = typename P::Element;
  using A = acc_t<T>;
  using Statistics = typename P::Statistics;
  const T* x;       // [rows, n]
  const T* second;  // a tensor like x, or [n], or nullptr
  const T* third;   // [n], or nullptr
  A* statistics;    // [rows, Statistics::numbers], or nullptr
  int64_t n;
  A eps;

  bool vectorizes() const { return aligned(x, second, third); }

  /// f(operands...) for the operands of row r. What is read several times is kept.
  template <class Row, class F>
  CBQ_HD void with_operands(const Row& row, int64_t r, const F& f) const {
    if constexpr (P::sums || P::identity) {
      with_others(row, r, f, row.read(x + r * n));
    } else {
      with_others(row, r, f, row.uncached(x + r * n));
    }
  }

  CBQ_HD void store(int64_t r, const Statistics& of) const {
    of.store(statistics + r * Statistics::numbers);
  }
  CBQ_HD Statistics stored(int64_t r) const {
    return Statistics::stored(statistics + r * Statistics::numbers);
  }

 private:
  template <class Row, class F, class X>
  CBQ_HD void with_others(const Row& row, int64_t r, const F& f, const X& in) const {
    if constexpr (P::operands == 1) {
      f(in);
    } else if constexpr (P::operands == 2) {
      f(in, row.uncached(P::tensors == 2 ? second + r * n : second));
    } else {
      f(in, row.uncached(second), row.uncached(third));
    }
  }
};

}  // namespace cbq::detail
