// Where scales and zero points of a weight start.
#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "quant/grid.h"
#include "quant/grid_search.h"

namespace cbq {
namespace {

/// One row = the weights that share a scale.
template <class T>
struct FindGrid {
  using A = acc_t<T>;
  const T* w;
  A* scale;
  A* zero_point;
  int64_t n;
  GridRule<A> rule;
  bool search;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const T* x = w + r * n;
    A high = 0, negated_low = 0;  // zero is always on the grid
#pragma omp simd reduction(max : high, negated_low)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      high = A(x[j]) > high ? A(x[j]) : high;
      negated_low = -A(x[j]) > negated_low ? -A(x[j]) : negated_low;
    }
    high = row.max(high);
    const A low = -row.max(negated_low);
    GridPoint<A> best = rule.from_range(low, high);
    if (search) best = search_clip(row, x, low, high, best);
    if (row.lane() == 0) {
      scale[r] = best.scale;
      zero_point[r] = best.zero_point;
    }
  }

  /// ||Q(x) - x||^2 of the row.
  template <class Row>
  CBQ_HD A squared_error(Row& row, const T* x, const GridPoint<A>& grid) const {
    const A s = grid.scale, z = grid.zero_point, largest = rule.largest_code;
    A error = 0;
#pragma omp simd reduction(+ : error)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A q = math::clamp(math::round_even(A(x[j]) / s) + z, A(0), largest);
      const A d = s * (q - z) - A(x[j]);
      error += d * d;
    }
    return row.sum(error);
  }

  /// The scale that fits the codes of `grid` best: sum x (q - z) / sum (q - z)^2 (least squares).
  template <class Row>
  CBQ_HD A fitted_scale(Row& row, const T* x, const GridPoint<A>& grid) const {
    const A s = grid.scale, z = grid.zero_point, largest = rule.largest_code;
    A product = 0, square = 0;
#pragma omp simd reduction(+ : product, square)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A q = math::clamp(math::round_even(A(x[j]) / s) + z, A(0), largest) - z;
      product += q * A(x[j]);
      square += q * q;
    }
    product = row.sum(product);
    square = row.sum(square);
    return product > A(0) && square > A(0) ? product / square : s;
  }

  /// Best of a ladder of clip ratios, both ends independently where the grid is asymmetric, then
  /// the scale refitted while that helps. Every candidate is one pass over the row.
  template <class Row>
  CBQ_HD GridPoint<A> search_clip(Row& row, const T* x, A low, A high, GridPoint<A> best) const {
    // The candidates first, so that nothing but the pass is left in the loop over them: g++
    // duplicates a loop around a condition that never changes, and then no longer vectorizes what
    // is inside.
    const detail::ClipLadder<A> ladder{rule, low, high};
    GridPoint<A> candidates[detail::ClipLadder<A>::most];
    const int count = ladder.count();
    for (int i = 0; i < count; ++i) candidates[i] = ladder.candidate(i);
    A least = squared_error(row, x, best);
    for (int i = 0; i < count; ++i) {
      const A error = squared_error(row, x, candidates[i]);
      if (error < least) {
        least = error;
        best = candidates[i];
      }
    }
    return detail::refitted<A>(
               {best, least}, [&](const GridPoint<A>& grid) { return fitted_scale(row, x, grid); },
               [&](const GridPoint<A>& grid) { return squared_error(row, x, grid); })
        .grid;
  }
};

}  // namespace

WeightGrid weight_grid(const Tensor& w, const WeightConfig& config, const std::string& layer) {
  check(w.defined() && w.rank() == 2 && w.count() > 0, layer, ": expected a weight [out, in]");
  check(config.quantizes(), layer, ": ", config.bits, " bits mean floating point: no grid");
  check_weight_config(config, layer, w.size(1));
  check(!kernels::has_non_finite(w), layer,
        ": the weight holds NaN or infinity; the checkpoint is damaged or was not converted");
  const int64_t out = w.size(0), in = w.size(1);
  const bool one = config.granularity == Granularity::per_tensor;
  WeightGrid grid;
  grid.bits = config.bits;
  grid.group = config.granularity == Granularity::per_group ? config.group_size : in;
  const Shape shape = one ? Shape{1, 1} : Shape{out, in / grid.group};
  dispatch_float(w.dtype(), "weight_grid", [&]<class T>() {
    using A = acc_t<T>;
    grid.scale = Tensor(shape, dtype_of<A>::value, w.device());
    grid.zero_point = Tensor(shape, dtype_of<A>::value, w.device());
    const int64_t n = w.count() / grid.scale.count();
    const GridRule<A> rule(config.bits, config.symmetric, config.form);
    map_rows("weight_grid", w.device(), grid.scale.count(), n,
             FindGrid<T>{w.data<T>(), grid.scale.data<A>(), grid.zero_point.data<A>(), n, rule,
                         config.search == ScaleSearch::squared_error});
  });
  grid.scale = stored_scales(grid.scale, config.scale_type);
  return grid;
}

}  // namespace cbq
