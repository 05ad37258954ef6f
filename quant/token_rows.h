// Fake quantization of tokens with what stands before it, row by row (kernels/launch/launch.h):
// what quantize_tokens runs wherever the tuned kernels do not.
#pragma once

#include "kernels/launch/launch.h"
#include "quant/grid_rule.h"
#include "quant/token_prologues.h"

namespace cbq::detail {

/// More than any norm of a model feeds.
constexpr int max_readers = 4;

/// What one quantizer is and where its results go.
template <class T>
struct OutputQuantizer {
  using A = acc_t<T>;
  const A* clip;  // [1]
  T* y;           // forward: x^ [rows, n]
  const T* dy;    // backward: its gradient
  GridRule<A> rule = {8, false, SymmetricForm::restricted};

  /// s and z for a row whose range is [-negated_smallest, largest].
  CBQ_HD GridPoint<A> grid(A negated_smallest, A largest) const {
    GridPoint<A> point = rule.from_range(-negated_smallest, largest);
    // The clip ratio scales both ends alike, so it leaves z = round(-low / s) where it is.
    point.scale *= math::exp(clip[0]);
    return point;
  }
};

template <class T>
struct Readers {
  OutputQuantizer<T> at[max_readers];
  int count;
};

/// y is computed once; it waits in the last reader's row for the others.
template <class Prologue>
struct QuantizeTokens {
  using T = typename Prologue::Element;
  using A = acc_t<T>;
  PrologueView<Prologue> source;
  Readers<T> readers;
  A* range;  // [rows, 2]: max(0, -min y), max(0, max y)

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const int64_t n = source.n;
    const auto in = source.operands(r);
    const auto of = source.measure(row, r);
    T* waiting = readers.at[readers.count - 1].y + r * n;
    A largest = 0, negated_smallest = 0;
#pragma omp simd reduction(max : largest, negated_smallest)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const T y = in.value(of, j);
      if constexpr (!Prologue::identity) waiting[j] = y;
      const A value = A(y);
      largest = value > largest ? value : largest;
      negated_smallest = -value > negated_smallest ? -value : negated_smallest;
    }
    largest = row.max(largest);
    negated_smallest = row.max(negated_smallest);
    if (row.lane() == 0) {
      range[2 * r] = negated_smallest;
      range[2 * r + 1] = largest;
    }
    for (int i = 0; i < readers.count; ++i) {
      const OutputQuantizer<T>& reader = readers.at[i];
      quantize(row, Prologue::identity ? in.a : waiting, reader.y + r * n, n,
               reader.grid(negated_smallest, largest), reader.rule.largest_code);
    }
  }

  template <class Row>
  CBQ_HD static void quantize(Row& row, const T* in, T* out, int64_t n, const GridPoint<A>& point,
                              A largest) {
    const A s = point.scale, z = point.zero_point;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      out[j] = T(s * (math::clamp(math::round_even(A(in[j]) / s) + z, A(0), largest) - z));
    }
  }
};

/// y is computed again for every reader; dL/dy gathers, rounded after every reader as a sum of
/// tensors is, where dL/dx goes.
template <class Prologue>
struct QuantizeTokensBackward {
  using T = typename Prologue::Element;
  using A = acc_t<T>;
  using Operands = typename PrologueView<Prologue>::Operands;
  using Statistics = typename Prologue::Statistics;
  PrologueView<Prologue> source;
  Readers<T> readers;
  const A* range;
  T* dx;        // [rows, n], or nullptr where nobody wants it
  T* d_second;  // likewise, of a second tensor
  A* d_clip;    // [readers, rows]
  int64_t rows;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const int64_t n = source.n;
    const Operands in = source.operands(r);
    const Statistics of = source.measured(r);
    T* g = dx == nullptr ? nullptr : dx + r * n;
    T* other = d_second == nullptr ? nullptr : d_second + r * n;
    for (int i = 0; i < readers.count; ++i) {
      const OutputQuantizer<T>& reader = readers.at[i];
      const GridPoint<A> point = reader.grid(range[2 * r], range[2 * r + 1]);
      const Through through{reader.dy + r * n, point.scale, point.zero_point,
                            reader.rule.largest_code};
      A ds = 0;
      if (g == nullptr) {
        ds = differentiate<Into::nothing>(row, in, of, through, g, other, n);
      } else if (Prologue::sums == 0 && readers.count == 1) {
        ds = differentiate<Into::x>(row, in, of, through, g, other, n);
      } else if (i == 0) {
        ds = differentiate<Into::first>(row, in, of, through, g, other, n);
      } else {
        ds = differentiate<Into::sum>(row, in, of, through, g, other, n);
      }
      ds = row.sum(ds);
      if (row.lane() == 0) d_clip[i * rows + r] = ds * point.scale;
    }
    if constexpr (!Prologue::identity) {
      if (g != nullptr && (Prologue::sums > 0 || readers.count > 1)) {
        finish(row, in, of, g, other, n);
      }
    }
  }

  /// Where the gradient that came through a reader goes: dL/dy, its first or a further part, or
  /// dL/dx at once.
  enum class Into { nothing, first, sum, x };

  /// One reader's gradient and grid.
  struct Through {
    const T* dy;
    A s, z, largest;
  };

  /// Returns the worker's share of dL/ds.
  template <Into into, class Row>
  CBQ_HD static A differentiate(Row& row, const Operands& in, const Statistics& of,
                                const Through& through, T* g, T* other, int64_t n) {
    const A s = through.s, z = through.z, largest = through.largest;
    const T* dy = through.dy;
    A ds = 0;
#pragma omp simd reduction(+ : ds)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A incoming = A(dy[j]), u = A(in.value(of, j)) / s;
      const A q = math::round_even(u) + z;
      const A code = math::clamp(q, A(0), largest);
      const bool inside = q == code;  // one comparison; of a NaN it is false
      const A d = inside ? incoming : A(0);
      if constexpr (into == Into::first) g[j] = T(d);
      if constexpr (into == Into::sum) g[j] = T(A(g[j]) + d);
      if constexpr (into == Into::x) store(in, of, {}, j, d, g, other);
      ds += incoming * (code - z - (inside ? u : A(0)));
    }
    return ds;
  }

  /// dL/dx, and a second tensor's gradient, of one element for d = dL/dy.
  CBQ_HD static void store(const Operands& in, const Statistics& of,
                           const typename Prologue::Means& mean, int64_t j, A d, T* g, T* other) {
    const A a = in.first(j), b = in.second(j);
    if constexpr (Prologue::second_is_tensor) other[j] = T(Prologue::second_gradient(a, b, d));
    g[j] = T(Prologue::gradient(of, mean, a, b, d));
  }

  /// g = dL/dy becomes dL/dx.
  template <class Row>
  CBQ_HD static void finish(Row& row, const Operands& in, const Statistics& of, T* g, T* other,
                            int64_t n) {
    typename Prologue::Means mean;
    if constexpr (Prologue::sums > 0) {
      A first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        Prologue::add_sums(of, in.first(j), in.second(j), A(g[j]), first, second);
      }
      first = row.sum(first);
      if (Prologue::sums > 1) second = row.sum(second);
      mean = Prologue::means(of, first, second, n);
    }
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) store(in, of, mean, j, A(g[j]), g, other);
  }
};

}  // namespace cbq::detail
