// How the kernels of a rounding scheme see a weight.
//
// A weight is cut into *ranges*: up to `tile` neighbouring columns of one row that share a scale. A
// range's intermediate values (u, v, dL/dv) live in a buffer of the worker, so nothing of size
// [out, in] is ever written but the result.
#pragma once

#include <string_view>
#include <type_traits>

#include "kernels/formulas/math.h"
#include "kernels/launch/launch.h"
#include "quant/rounding.h"

namespace cbq::detail {

/// Columns that a worker treats at once; their buffers fit the first-level cache.
constexpr int64_t tile = 512;

/// A worker's own values of a range's columns: all of them on the CPU; on CUDA a block has at least
/// 32 workers, each with every 32nd column at most.
template <class Row, class A>
struct Slots {
  static constexpr int64_t count = std::is_same_v<Row, SerialRow> ? tile : tile / 32;
  A values[count];
  CBQ_HD A& at(const Row& row, int64_t j) { return values[j / row.lanes()]; }
};

/// Where a range lies: columns [column, column + width) of a row, and which scale of the row.
struct ColumnRange {
  int64_t column, width, group;
};

/// A RoundingPass as kernels see it.
template <class T>
struct RoundingView {
  using A = acc_t<T>;
  const T* w;
  const A* scale;
  const A* zero_point;
  const A* dense;
  const A* a1;
  const A* a2;
  const A* unit;  // like scale, or null
  int64_t out, in, rank, group;
  int64_t groups;            // per row
  int64_t ranges_per_group;  // a range never crosses a group
  bool one_scale;            // [1, 1] for the whole weight
  Start start;
  bool hard;
  A largest_code;

  CBQ_HD int64_t ranges() const { return groups * ranges_per_group; }
  CBQ_HD ColumnRange range(int64_t index) const {
    const int64_t g = index / ranges_per_group, within = index % ranges_per_group * tile;
    return {g * group + within, math::min(tile, group - within), g};
  }
  CBQ_HD int64_t grid_index(int64_t i, const ColumnRange& range) const {
    return one_scale ? 0 : i * groups + range.group;
  }
};

/// Calls f with the start as a constant: each has a loop of its own, so that each vectorizes.
template <class F>
CBQ_HD void for_start(Start start, F&& f) {
  if (start == Start::fraction) f(std::integral_constant<Start, Start::fraction>());
  if (start == Start::nearest) f(std::integral_constant<Start, Start::nearest>());
  if (start == Start::zero) f(std::integral_constant<Start, Start::zero>());
}

/// clamp(v0(u) + p, v_min, v_max).
template <class Scheme, Start start, class A>
CBQ_HD A variable_of(A u, A p) {
  return math::clamp(Scheme::initial(u, start) + p, A(Scheme::v_min), A(Scheme::v_max));
}

/// Calls f(k, count) with count a constant of up to five neighbouring k, until all `rank` had their
/// turn: loops over columns then do the work of five passes in one.
template <class F>
CBQ_HD void for_ranks(int64_t rank, F&& f) {
  int64_t k = 0;
  for (; k + 5 <= rank; k += 5) f(k, std::integral_constant<int, 5>());
  if (rank - k == 4) f(k, std::integral_constant<int, 4>());
  if (rank - k == 3) f(k, std::integral_constant<int, 3>());
  if (rank - k == 2) f(k, std::integral_constant<int, 2>());
  if (rank - k == 1) f(k, std::integral_constant<int, 1>());
}

/// v_j += sum_k a1[k] a2[k, j], k < count in order; rows of a2 are `stride` apart.
template <int count, class Row, class A>
CBQ_HD void add_low_rank(Row& row, int64_t n, const A* a1, const A* a2, int64_t stride,
                         Slots<Row, A>& v) {
  A factor[count];
  for (int k = 0; k < count; ++k) factor[k] = a1[k];
#pragma omp simd
  for (int64_t j = row.lane(); j < n; j += row.lanes()) {
    A sum = v.at(row, j);
    for (int k = 0; k < count; ++k) sum += factor[k] * a2[k * stride + j];
    v.at(row, j) = sum;
  }
}

/// d1[k] = sum_j a2[k, j] dv_j of this worker's columns; d2[k, j] += a1[k] dv_j.
template <int count, class Row, class A>
CBQ_HD void low_rank_gradients(Row& row, int64_t n, const A* a1, const A* a2, A* d2, int64_t stride,
                               Slots<Row, A>& dv, A (&d1)[count]) {
  A factor[count];
  for (int k = 0; k < count; ++k) factor[k] = a1[k];
  A s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0;  // OpenMP reduces no arrays in a simd loop
  const auto term = [&](int64_t j, int k, A g) {
    d2[k * stride + j] += factor[k] * g;
    return a2[k * stride + j] * g;
  };
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4)
  for (int64_t j = row.lane(); j < n; j += row.lanes()) {
    const A g = dv.at(row, j);
    s0 += term(j, 0, g);
    if constexpr (count > 1) s1 += term(j, 1, g);
    if constexpr (count > 2) s2 += term(j, 2, g);
    if constexpr (count > 3) s3 += term(j, 3, g);
    if constexpr (count > 4) s4 += term(j, 4, g);
  }
  const A sums[5] = {s0, s1, s2, s3, s4};
  for (int k = 0; k < count; ++k) d1[k] = sums[k];
}

/// u = w/s and v = clamp(v0(u) + p) of row i's columns in `range`. Of a scheme whose p is an offset
/// of the weight: v = clamp(v0(u) + offset), offset = p unit / s.
template <class Scheme, class Row, class T>
CBQ_HD void load_range(Row& row, const RoundingView<T>& view, int64_t i, const ColumnRange& range,
                       Slots<Row, acc_t<T>>& u, Slots<Row, acc_t<T>>& v,
                       [[maybe_unused]] Slots<Row, acc_t<T>>& offset) {
  using A = acc_t<T>;
  const A s = view.scale[view.grid_index(i, range)];
  const T* w = view.w + i * view.in + range.column;
  const int64_t n = range.width;
  const A* p = view.dense != nullptr ? view.dense + i * view.in + range.column : nullptr;
  if constexpr (!Scheme::v_in_weight_units) {
    if (p != nullptr) {  // the usual case in one pass: the others write v twice
      for_start(view.start, [&](auto start) {
#pragma omp simd
        for (int64_t j = row.lane(); j < n; j += row.lanes()) {
          const A uj = A(w[j]) / s;
          u.at(row, j) = uj;
          v.at(row, j) = variable_of<Scheme, start()>(uj, p[j]);
        }
      });
      return;
    }
  }
#pragma omp simd
  for (int64_t j = row.lane(); j < n; j += row.lanes()) {
    u.at(row, j) = A(w[j]) / s;
    v.at(row, j) = p != nullptr ? p[j] : A(0);
  }
  if (p == nullptr) {
    for_ranks(view.rank, [&](int64_t k, auto count) {
      add_low_rank<count()>(row, n, view.a1 + i * view.rank + k,
                            view.a2 + k * view.in + range.column, view.in, v);
    });
  }
  if constexpr (Scheme::v_in_weight_units) {
    const A unit = view.unit != nullptr ? view.unit[view.grid_index(i, range)] : A(0);
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      v.at(row, j) = v.at(row, j) * unit / s;
      offset.at(row, j) = v.at(row, j);
    }
  }
  for_start(view.start, [&](auto start) {
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      v.at(row, j) = variable_of<Scheme, start()>(u.at(row, j), v.at(row, j));
    }
  });
}

/// r(u, v) of the phase.
template <class Scheme, bool hard, class A>
CBQ_HD A rounded(A u, A v) {
  if constexpr (hard || !Scheme::relaxes) {
    return Scheme::hard(u, v);
  } else {
    return Scheme::soft(u, v);
  }
}

/// d/dv (1 - |2h - 1|^beta).
template <class Scheme, class A>
CBQ_HD A regularizer_slope(A v, A beta) {
  const A c = A(2) * Scheme::relaxed(v) - A(1);
  const A size = math::abs(c) > A(1e-12) ? math::abs(c) : A(1e-12);
  const A power = math::exp((beta - A(1)) * math::log_positive(size));
  return beta * power * (c < A(0) ? A(1) : A(-1)) * A(2) * Scheme::d_relaxed(v);
}

/// True where descent, which moves v against its gradient d, would leave the bounds.
template <class Scheme, class A>
CBQ_HD bool leads_out(A v, A d) {
  return (v >= A(Scheme::v_max) && d < A(0)) || (v <= A(Scheme::v_min) && d > A(0));
}

/// The regularizer's gradient with respect to v, 0 where v lies at a bound that it would pass.
template <class Scheme, class A>
CBQ_HD A regularizer_gradient(A v, A weight, A beta) {
  const A d = weight * regularizer_slope<Scheme>(v, beta);
  return leads_out<Scheme>(v, d) ? A(0) : d;
}

/// Throws std::invalid_argument unless the shapes and dtypes of a pass fit each other.
/// `needs_unit`: of a scheme with v_in_weight_units.
void check_rounding_pass(const std::string& scheme, const RoundingPass& pass, bool needs_unit);

template <class T>
RoundingView<T> view_of(const RoundingPass& pass) {
  using A = acc_t<T>;
  RoundingView<T> view{};
  view.w = pass.w.data<T>();
  view.scale = pass.scale.data<A>();
  view.zero_point = pass.zero_point.data<A>();
  view.dense = pass.dense.defined() ? pass.dense.data<A>() : nullptr;
  view.a1 = pass.a1.defined() ? pass.a1.data<A>() : nullptr;
  view.a2 = pass.a2.defined() ? pass.a2.data<A>() : nullptr;
  view.unit = pass.unit.defined() ? pass.unit.data<A>() : nullptr;
  view.out = pass.w.size(0);
  view.in = pass.w.size(1);
  view.rank = pass.a1.defined() ? pass.a1.size(1) : 0;
  view.one_scale = pass.scale.count() == 1;
  view.group = view.one_scale ? view.in : pass.group;
  view.groups = view.in / view.group;
  view.ranges_per_group = (view.group + tile - 1) / tile;
  view.start = pass.start;
  view.hard = pass.hard;
  view.largest_code = A(max_code(pass.bits));
  return view;
}

/// The dtypes in which weights are quantized. An f16 checkpoint is loaded in another one.
template <class F>
decltype(auto) dispatch_weight(std::string_view op, Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f.template operator()<float>();
  if (dtype == Dtype::bf16) return f.template operator()<bf16>();
  if (dtype == Dtype::f64) return f.template operator()<double>();
  throw std::invalid_argument(message_of(op, ": weights are f32, bf16 or f64, got ", dtype));
}

}  // namespace cbq::detail
