// How the kernels of a rounding scheme see a weight.
//
// A weight is cut into *parts*: up to `tile` neighbouring columns of one row that share a scale. A
// part's intermediate values (u, v, dL/dv) live in a buffer of the worker, so nothing of size [out,
// in] is ever written but the result.
#pragma once

#include <string>
#include <type_traits>

#include "kernels/launch.h"
#include "kernels/math.h"
#include "quant/rounding.h"

namespace cbq::detail {

/// Columns that a worker treats at once; their buffers fit the first-level cache.
constexpr int64_t tile = 512;

/// A worker's own values of a part's columns: all of them on the CPU; on CUDA a block has at least
/// 32 workers, each with every 32nd column at most.
template <class Row, class A>
struct Slots {
  static constexpr int64_t count = std::is_same_v<Row, SerialRow> ? tile : tile / 32;
  A values[count];
  CBQ_HD A& at(const Row& row, int64_t j) { return values[j / row.lanes()]; }
};

/// Where a part lies: columns [column, column + width) of a row, and which scale of the row.
struct Part {
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
  int64_t out, in, rank, group;
  int64_t groups;           // per row
  int64_t parts_per_group;  // a part never crosses a group
  bool one_scale;           // [1, 1] for the whole weight
  Start start;
  bool hard;
  A largest_code;

  CBQ_HD int64_t parts() const { return groups * parts_per_group; }
  CBQ_HD Part part(int64_t index) const {
    const int64_t g = index / parts_per_group, within = index % parts_per_group * tile;
    return {g * group + within, math::min(tile, group - within), g};
  }
  CBQ_HD int64_t grid_index(int64_t i, const Part& part) const {
    return one_scale ? 0 : i * groups + part.group;
  }
};

/// v = clamp(v0(u) + v, v_min, v_max); one loop per start, so that each vectorizes.
template <class Scheme, Start start, class Row, class A>
CBQ_HD void add_initial_from(Row& row, int64_t n, Slots<Row, A>& u, Slots<Row, A>& v) {
#pragma omp simd
  for (int64_t j = row.lane(); j < n; j += row.lanes()) {
    v.at(row, j) = math::clamp(Scheme::initial(u.at(row, j), start) + v.at(row, j),
                               A(Scheme::v_min), A(Scheme::v_max));
  }
}
template <class Scheme, class Row, class A>
CBQ_HD void add_initial(Row& row, Start start, int64_t n, Slots<Row, A>& u, Slots<Row, A>& v) {
  if (start == Start::fraction) add_initial_from<Scheme, Start::fraction>(row, n, u, v);
  if (start == Start::nearest) add_initial_from<Scheme, Start::nearest>(row, n, u, v);
  if (start == Start::zero) add_initial_from<Scheme, Start::zero>(row, n, u, v);
}

/// u = w/s and v = clamp(v0(u) + p) of row i's columns in `part`.
template <class Scheme, class Row, class T>
CBQ_HD void load_part(Row& row, const RoundingView<T>& view, int64_t i, const Part& part,
                      Slots<Row, acc_t<T>>& u, Slots<Row, acc_t<T>>& v) {
  using A = acc_t<T>;
  const A s = view.scale[view.grid_index(i, part)];
  const T* w = view.w + i * view.in + part.column;
  const int64_t n = part.width;
#pragma omp simd
  for (int64_t j = row.lane(); j < n; j += row.lanes()) u.at(row, j) = A(w[j]) / s;
  if (view.dense != nullptr) {
    const A* p = view.dense + i * view.in + part.column;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) v.at(row, j) = p[j];
  } else {
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) v.at(row, j) = A(0);
    for (int64_t k = 0; k < view.rank; ++k) {
      const A a1 = view.a1[i * view.rank + k];
      const A* a2 = view.a2 + k * view.in + part.column;
#pragma omp simd
      for (int64_t j = row.lane(); j < n; j += row.lanes()) v.at(row, j) += a1 * a2[j];
    }
  }
  if constexpr (Scheme::v_in_weight_units) {
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) v.at(row, j) = v.at(row, j) / s;
  }
  add_initial<Scheme>(row, view.start, n, u, v);
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

/// Throws std::invalid_argument unless the shapes and dtypes of a pass fit each other.
void check_rounding_pass(const std::string& scheme, const RoundingPass& pass);

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
  view.out = pass.w.size(0);
  view.in = pass.w.size(1);
  view.rank = pass.a1.defined() ? pass.a1.size(1) : 0;
  view.one_scale = pass.scale.count() == 1;
  view.group = view.one_scale ? view.in : pass.group;
  view.groups = view.in / view.group;
  view.parts_per_group = (view.group + tile - 1) / tile;
  view.start = pass.start;
  view.hard = pass.hard;
  view.largest_code = A(max_code(pass.bits));
  return view;
}

/// The dtypes weights come in; f16 checkpoints are converted when they are loaded.
template <class F>
decltype(auto) dispatch_weight(const std::string& op, Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f.template operator()<float>();
  if (dtype == Dtype::bf16) return f.template operator()<bf16>();
  if (dtype == Dtype::f64) return f.template operator()<double>();
  throw std::invalid_argument(concat(op, ": weights are f32, bf16 or f64, got ", name_of(dtype)));
}

}  // namespace cbq::detail
