// What flows through a rounding to the weight, for weights that are learned themselves.
#pragma once

#include "quant/rounding_view.h"

namespace cbq::detail {

/// d_w = dW^ dr/du where the code lies inside the grid, else 0.
template <class Scheme, class T>
struct RoundWeightGradient {
  using A = acc_t<T>;
  RoundingView<T> view;
  const T* dw;
  T* d_w;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t i = item / view.ranges();
    const ColumnRange range = view.range(item % view.ranges());
    Slots<Row, A> u, v, offset;
    load_range<Scheme>(row, view, i, range, u, v, offset);
    const A z = view.zero_point[view.grid_index(i, range)], largest = view.largest_code;
    const T* g = dw + i * view.in + range.column;
    T* out = d_w + i * view.in + range.column;
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A uj = u.at(row, j), vj = v.at(row, j);
      const A q = z + (view.hard ? rounded<Scheme, true>(uj, vj) : rounded<Scheme, false>(uj, vj));
      const bool inside = q >= A(0) && q <= largest;
      out[j] = T(inside ? A(g[j]) * Scheme::d_du(uj, vj) : A(0));
    }
  }
};

}  // namespace cbq::detail
