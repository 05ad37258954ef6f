#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"
#include "quant/activation_kernels.h"
#include "quant/grid_rule.h"

namespace cbq {
namespace {

/// What both directions read of one activation tensor.
template <class T>
struct ActivationView {
  using A = acc_t<T>;
  const T* x;
  const A* low;  // null: each row has its own range
  const A* high;
  const int32_t* ends;  // of runs; null: a row is one
  int64_t runs;
  const A* clip;
  int64_t n;
  GridRule<A> rule;

  CBQ_HD int64_t begin_of(int64_t run) const { return run == 0 ? 0 : ends[run - 1]; }
  CBQ_HD int64_t end_of(int64_t run) const { return ends == nullptr ? n : ends[run]; }

  /// The grid of a run of row r, the same for all its workers.
  template <class Row>
  CBQ_HD TokenGrid<A> grid(Row& row, int64_t r, int64_t run) const {
    A largest = 0, negated_smallest = 0;
    if (low != nullptr) {
      largest = math::max(A(0), high[run]);
      negated_smallest = math::max(A(0), -low[run]);
    } else {
      const T* in = x + r * n;
#pragma omp simd reduction(max : largest, negated_smallest)
      for (int64_t j = row.lane(); j < n; j += row.lanes()) {
        const A value = A(in[j]);
        largest = value > largest ? value : largest;
        negated_smallest = -value > negated_smallest ? -value : negated_smallest;
      }
      largest = row.max(largest);
      negated_smallest = row.max(negated_smallest);
    }
    return rule.token_grid(-negated_smallest, largest, clip[0]);
  }
};

template <class T>
struct QuantizeActivation {
  ActivationView<T> view;
  T* y;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = view.x + r * view.n;
    T* out = y + r * view.n;
    for (int64_t run = 0; run < view.runs; ++run) {
      const TokenGrid<A> grid = view.grid(row, r, run);
      const int64_t begin = view.begin_of(run), end = view.end_of(run);
#pragma omp simd
      for (int64_t j = begin + row.lane(); j < end; j += row.lanes()) {
        out[j] = T(grid.value(A(in[j]) / grid.scale));
      }
    }
  }
};

template <class T>
struct QuantizeActivationBackward {
  using A = acc_t<T>;
  ActivationView<T> view;
  const T* dy;
  T* dx;
  A* d_clip;  // [rows]
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const T* in = view.x + r * view.n;
    const T* g = dy + r * view.n;
    T* out = dx + r * view.n;
    A da = 0;
    for (int64_t run = 0; run < view.runs; ++run) {
      const TokenGrid<A> grid = view.grid(row, r, run);
      const int64_t begin = view.begin_of(run), end = view.end_of(run);
      A ds = 0;
#pragma omp simd reduction(+ : ds)
      for (int64_t j = begin + row.lane(); j < end; j += row.lanes()) {
        const Stored<A, 1> d = grid.gradient(A(in[j]) / grid.scale, A(g[j]));
        out[j] = T(d.value[0]);
        ds += d.term;
      }
      da += row.sum(ds) * grid.scale;
    }
    if (row.lane() == 0) d_clip[r] = da;
  }
};

template <class T>
ActivationView<T> view_of(const Tensor& x, const Tensor& clip, const ActivationRange& range,
                          const ActivationConfig& config) {
  using A = acc_t<T>;
  constexpr const char* op = "quantize_activation";
  check_shape(op, "clip", clip, {1});
  check_device(op, "clip", clip, x.device());
  const bool shared = range.low.defined(), divided = range.ends.defined();
  const int64_t runs = divided ? range.ends.count() : 1;
  if (shared) {
    for (const Tensor& end : {range.low, range.high}) {
      check_shape(op, "range", end, {runs});
      check_device(op, "range", end, x.device());
    }
  }
  if (divided) check_device(op, "ends of runs", range.ends, x.device());
  return {x.data<T>(),
          shared ? range.low.data<A>() : nullptr,
          shared ? range.high.data<A>() : nullptr,
          divided ? range.ends.data<int32_t>() : nullptr,
          runs,
          clip.data<A>(),
          row_shape(op, x).width,
          GridRule<A>(config.bits, config.symmetric, config.form)};
}

}  // namespace

Tensor quantize_activation(const Tensor& x, const Tensor& clip, const ActivationRange& range,
                           const ActivationConfig& config) {
  const auto [rows, n] = row_shape("quantize_activation", x);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "quantize_activation", [&]<class T>() {
    map_rows("quantize_activation", x.device(), rows, n,
             QuantizeActivation<T>{view_of<T>(x, clip, range, config), y.data<T>()});
  });
  return y;
}

std::pair<Tensor, Tensor> quantize_activation_backward(const Tensor& x, const Tensor& clip,
                                                       const ActivationRange& range,
                                                       const ActivationConfig& config,
                                                       const Tensor& dy) {
  check_same("quantize_activation", x, dy);
  const OpTimer timer("quantize_activation", x.device());  // the sum at the end, too
  const auto [rows, n] = row_shape("quantize_activation", x);
  Tensor dx(x.shape(), x.dtype(), x.device());
  Tensor d_clip({rows}, clip.dtype(), x.device());
  dispatch_float(x.dtype(), "quantize_activation", [&]<class T>() {
    map_rows("quantize_activation", x.device(), rows, n,
             QuantizeActivationBackward<T>{view_of<T>(x, clip, range, config), dy.data<T>(),
                                           dx.data<T>(), d_clip.data<acc_t<T>>()});
  });
  return {dx, kernels::sum(d_clip)};
}

ActivationRange range_of(const Tensor& x) {
  const auto [low, high] = kernels::min_max_rows(x);
  const Dtype dtype = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  return {kernels::cast(kernels::min_max_rows(low.reshape({1, -1})).first, dtype),
          kernels::cast(kernels::min_max_rows(high.reshape({1, -1})).second, dtype)};
}

}  // namespace cbq
