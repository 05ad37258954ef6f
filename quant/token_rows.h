// Fake quantization of tokens with what stands before it: functors of whole rows
// (kernels/launch/launch.h).
//
// On CUDA a row is read once and waits in registers between norm, range and codes. Bytes per
// element of bf16, k quantizers behind a norm:
//   forward    2 read, 2 k written;           step by step 4 + 4 k
//   backward   2 k + 2 read, 2 written;       step by step 12 k
// where step by step a row's second reading, of which there are 2 k + 2, comes from a cache.
// Weights of the norm come from the caches. y is not kept: backward computes it again, 2 to 40
// operations. Unmeasured: no GPU has run it yet (docs/life-of-an-op.md).
#pragma once

#include "kernels/launch/tuned.h"
#include "quant/grid_rule.h"
#include "quant/token_prologues.h"

namespace cbq::detail {

/// More than any norm of a model feeds.
constexpr int max_quantizers = 4;

/// What one quantizer is and where its results go.
template <class T>
struct OutputQuantizer {
  using A = acc_t<T>;
  const A* clip;  // [1]
  T* y;           // forward: x^ [rows, n]
  const T* dy;    // backward: its gradient
  GridRule<A> rule = {8, false, SymmetricForm::restricted};

  /// The grid of a row whose range is [-negated_smallest, largest].
  CBQ_HD TokenGrid<A> grid(A negated_smallest, A largest) const {
    return rule.token_grid(-negated_smallest, largest, clip[0]);
  }
};

template <class T>
struct OutputQuantizers {
  OutputQuantizer<T> at[max_quantizers];
  int count;

  bool vectorizes() const {
    for (int i = 0; i < count; ++i) {
      if (!aligned(at[i].y, at[i].dy)) return false;
    }
    return true;
  }
};

/// x / s of elements of T: the division itself on the CPU, the same number on CUDA.
template <class T, bool on_grid>
struct StepsOf {
  using A = acc_t<T>;
  A s;
  CBQ_HD explicit StepsOf(A scale) : s(scale) {}
  CBQ_HD A operator()(A x) const { return x / s; }
};
template <class T>
requires std::is_same_v < acc_t<T>,
float > struct StepsOf<T, true> {
  float s, r;
  bool near_one;  // far from 1 a residual could underflow
  CBQ_HD explicit StepsOf(float scale)
      : s(scale), r(1.0f / scale), near_one(scale > 1e-20f && scale < 1e20f) {}
  CBQ_HD float operator()(float x) const { return near_one ? tuned::quotient<T>(x, s, r) : x / s; }
};

/// y is computed once; it waits for the quantizers, on the CPU in the last one's row.
template <class P>
struct QuantizeTokens {
  using Element = typename P::Element;
  using T = Element;
  using A = acc_t<T>;
  PrologueView<P> source;
  OutputQuantizers<T> quantizers;
  A* range;  // [rows, 2]: max(0, -min y), max(0, max y)

  bool vectorizes() const { return source.vectorizes() && quantizers.vectorizes(); }

  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    source.with_operands(row, r, [&](const auto& x, const auto&... others) {
      const auto of = P::measure(row, source.n, source.eps, x);
      if (row.first()) source.store(r, of);
      const auto ends = [](A y) { return MultiReduce<A, 2>{{y, -y}}; };
      if constexpr (P::identity) {
        quantize(row, r, x, row.max(ends, x));
      } else {
        const auto value = [of](auto... v) { return P::value(of, v...); };
        T* waiting = quantizers.at[quantizers.count - 1].y + r * source.n;
        const auto y = row.keep_max(waiting, value, ends, x, others...);
        quantize(row, r, y.values, y.largest);
      }
    });
  }

  template <class Row, class Y>
  CBQ_HD void quantize(const Row& row, int64_t r, const Y& y, const MultiReduce<A, 2>& ends) const {
    const A largest = ends.at[0] > A(0) ? ends.at[0] : A(0);
    const A negated_smallest = ends.at[1] > A(0) ? ends.at[1] : A(0);
    if (row.first()) {
      range[2 * r] = negated_smallest;
      range[2 * r + 1] = largest;
    }
    for (int i = 0; i < quantizers.count; ++i) {
      const TokenGrid<A> grid = quantizers.at[i].grid(negated_smallest, largest);
      const StepsOf<T, Row::on_grid> steps(grid.scale);
      row.write(
          quantizers.at[i].y + r * source.n, [=](A v) { return grid.value(steps(v)); }, y);
    }
  }
};

/// y is computed again for every quantizer; dL/dy gathers, rounded after every quantizer as a sum
/// of tensors is, on the CPU where dL/dx goes.
template <class P>
struct QuantizeTokensBackward {
  using Element = typename P::Element;
  using T = Element;
  using A = acc_t<T>;
  PrologueView<P> source;
  OutputQuantizers<T> quantizers;
  const A* range;
  T* dx;        // [rows, n], or nullptr where nobody wants it
  T* d_second;  // likewise, of a second tensor
  A* d_clip;    // [quantizers, rows]
  int64_t rows;

  bool vectorizes() const {
    return source.vectorizes() && quantizers.vectorizes() && aligned(dx, d_second);
  }

  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    source.with_operands(row, r, [&](const auto&... x) {
      if (dx == nullptr) {
        differentiate_clips(row, r, x...);
      } else if (!P::sums && quantizers.count == 1) {
        differentiate_at_once(row, r, x...);
      } else {
        gather(row, r, x...);
      }
    });
  }

  /// One quantizer's derivative at an element: the part of dL/dy, and of dL/ds.
  template <bool on_grid>
  struct Through {
    TokenGrid<A> grid;
    StepsOf<T, on_grid> steps;
    typename P::Statistics of;
    template <class... X>
    CBQ_HD Stored<A, 1> operator()(A g, X... x) const {
      return grid.gradient(steps(device_math::rounded<T>(P::value(of, x...))), g);
    }
  };
  template <class Row>
  CBQ_HD Through<Row::on_grid> through(const Row&, int i, int64_t r) const {
    const TokenGrid<A> grid = quantizers.at[i].grid(range[2 * r], range[2 * r + 1]);
    return {grid, StepsOf<T, Row::on_grid>(grid.scale), source.stored(r)};
  }
  template <class Row>
  CBQ_HD void store_clip(const Row& row, int i, int64_t r, A ds, A scale) const {
    if (row.first()) d_clip[i * rows + r] = ds * scale;
  }

  template <class Row, class... X>
  CBQ_HD void differentiate_clips(const Row& row, int64_t r, const X&... x) const {
    for (int i = 0; i < quantizers.count; ++i) {
      const auto one = through(row, i, r);
      const auto term = [=](A g, auto... v) { return one(g, v...).term; };
      const A ds = row.sum(term, row.uncached(quantizers.at[i].dy + r * source.n), x...);
      store_clip(row, i, r, ds, one.grid.scale);
    }
  }

  /// Nothing waits for a sum over the row.
  template <class Row, class... X>
  CBQ_HD void differentiate_at_once(const Row& row, int64_t r, const X&... x) const {
    const int64_t at = r * source.n;
    const auto one = through(row, 0, r);
    const auto both = [=](A g, auto... v) {
      const Stored<A, 1> d = one(g, v...);
      auto gradient = P::gradient(one.of, typename P::Means{}, d.value[0], v...);
      gradient.term = d.term;
      return gradient;
    };
    auto to = row.memory(dx + at);
    const auto g = row.uncached(quantizers.at[0].dy + at);
    A ds;
    if constexpr (P::tensors == 2) {
      auto other = row.memory(d_second + at);
      ds = row.put_sum2(to, other, both, g, x...);
    } else {
      ds = row.put_sum(to, both, g, x...);
    }
    store_clip(row, 0, r, ds, one.grid.scale);
  }

  template <class Row, class... X>
  CBQ_HD void gather(const Row& row, int64_t r, const X&... x) const {
    T* out = dx + r * source.n;
    if constexpr (P::identity) {
      auto g = row.memory(out);  // is dL/dx already
      gather_into(row, r, g, x...);
    } else {
      auto g = row.place(out);
      gather_into(row, r, g, x...);
      finish(row, r, g, x...);
    }
  }
  template <class Row, class G, class... X>
  CBQ_HD void gather_into(const Row& row, int64_t r, G& g, const X&... x) const {
    for (int i = 0; i < quantizers.count; ++i) {
      const auto one = through(row, i, r);
      const auto dy = row.uncached(quantizers.at[i].dy + r * source.n);
      A ds;
      if (i == 0) {
        ds = row.put_sum(g, one, dy, x...);
      } else {
        const auto added = [=](A before, A incoming, auto... v) {
          Stored<A, 1> d = one(incoming, v...);
          d.value[0] = before + d.value[0];
          return d;
        };
        ds = row.put_sum(g, added, g, dy, x...);
      }
      store_clip(row, i, r, ds, one.grid.scale);
    }
  }

  /// g = dL/dy becomes dL/dx.
  template <class Row, class G, class... X>
  CBQ_HD void finish(const Row& row, int64_t r, const G& g, const X&... x) const {
    const auto of = source.stored(r);
    typename P::Means mean;
    if constexpr (P::sums) mean = P::means(row, of, source.n, g, x...);
    const auto gradient = [=](A d, auto... v) { return P::gradient(of, mean, d, v...); };
    auto to = row.memory(dx + r * source.n);
    if constexpr (P::tensors == 2) {
      auto other = row.memory(d_second + r * source.n);
      row.put2(to, other, gradient, g, x...);
    } else {
      row.put(to, gradient, g, x...);
    }
  }
};

}  // namespace cbq::detail
