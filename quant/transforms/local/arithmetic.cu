#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "quant/grid_rule.h"
#include "quant/transforms/local/arithmetic.h"

namespace cbq {
namespace {

template <class T>
struct DivideRows {
  const T* x;
  T* y;
  const double* s;
  int64_t n;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = static_cast<T>(static_cast<acc_t<T>>(static_cast<double>(x[i]) / s[i / n]));
  }
};

template <class T>
struct MultiplyColumns {
  const T* x;
  T* y;
  const double* s;
  int64_t n;
  CBQ_HD void operator()(int64_t i) const {
    y[i] = static_cast<T>(static_cast<acc_t<T>>(static_cast<double>(x[i]) * s[i % n]));
  }
};

template <class T>
struct KeepFromZero {
  T* s;
  T least;
  CBQ_HD void operator()(int64_t i) const {
    if (math::abs(s[i]) < least) s[i] = s[i] < T(0) ? -least : least;
  }
};

template <class T>
struct ClampGroups {
  const T* x;
  T* y;
  const acc_t<T>* low;
  const acc_t<T>* high;
  int64_t n;
  CBQ_HD void operator()(int64_t i) const {
    const int64_t g = i / n;
    y[i] = static_cast<T>(math::clamp(static_cast<acc_t<T>>(x[i]), low[g], high[g]));
  }
};

template <class T>
struct CountOutside {
  const T* x;
  const acc_t<T>* low;
  const acc_t<T>* high;
  double* outside;  // per group
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t g) const {
    double count = 0.0;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const auto value = static_cast<acc_t<T>>(x[g * n + j]);
      if (value < low[g] || value > high[g]) count += 1.0;
    }
    count = row.sum(count);
    if (row.lane() == 0) outside[g] = count;
  }
};

template <class T>
struct WidenColumnRange {
  const T* x;
  double* low;
  double* high;
  int64_t rows, n;
  CBQ_HD void operator()(int64_t c) const {
    double lo = low[c], hi = high[c];
    for (int64_t r = 0; r < rows; ++r) {
      const auto value = static_cast<double>(x[r * n + c]);
      lo = value < lo ? value : lo;
      hi = value > hi ? value : hi;
    }
    low[c] = lo;
    high[c] = hi;
  }
};

template <class T>
struct AddColumnMagnitudes {
  const T* x;
  double* sum;
  int64_t rows, n;
  CBQ_HD void operator()(int64_t c) const {
    double total = sum[c];
    for (int64_t r = 0; r < rows; ++r) total += math::abs(static_cast<double>(x[r * n + c]));
    sum[c] = total;
  }
};

/// One row = the weights that share a scale.
template <class T>
struct LeastErrorRange {
  using A = acc_t<T>;
  const T* w;
  A* low;
  A* high;
  int64_t n;
  GridRule<A> rule;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t g) const {
    const T* x = w + g * n;
    A top = 0, negated_bottom = 0;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      top = math::max(top, A(x[j]));
      negated_bottom = math::max(negated_bottom, -A(x[j]));
    }
    top = row.max(top);
    A bottom = -row.max(negated_bottom);
    if (rule.symmetric) {
      top = math::max(top, -bottom);
      bottom = -top;
    }
    const int steps = rule.symmetric ? 81 : 16;
    const A step = rule.symmetric ? A(0.01) : A(0.05);
    A least = squared_error(row, x, bottom, top), best_low = bottom, best_high = top;
    for (int i = 0; i < steps; ++i) {
      for (int k = 0; k < (rule.symmetric ? 1 : steps); ++k) {
        const A a = A(1) - step * A(i), b = rule.symmetric ? a : A(1) - step * A(k);
        const A error = squared_error(row, x, a * bottom, b * top);
        if (error < least) {
          least = error;
          best_low = a * bottom;
          best_high = b * top;
        }
      }
    }
    if (row.lane() == 0) {
      low[g] = best_low;
      high[g] = best_high;
    }
  }

  template <class Row>
  CBQ_HD A squared_error(Row& row, const T* x, A bottom, A top) const {
    const GridPoint<A> grid = rule.from_range(bottom, top);
    const A s = grid.scale, z = grid.zero_point;
    A error = 0;
#pragma omp simd reduction(+ : error)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A kept = math::clamp(A(x[j]), bottom, top);
      const A q = math::clamp(math::round_even(kept / s) + z, A(0), rule.largest_code);
      const A d = s * (q - z) - A(x[j]);
      error += d * d;
    }
    return row.sum(error);
  }
};

Tensor factors_on(const Tensor& x, const std::vector<double>& s) {
  return Tensor::from(s, {static_cast<int64_t>(s.size())}, Dtype::f64, x.device());
}

}  // namespace

void keep_from_zero(const Tensor& s, double least) {
  check(least > 0.0, "keep_from_zero: a distance of ", least, "; expected more than 0");
  const auto run = [&]<class T>() {
    map("keep_from_zero", s.device(), s.count(), KeepFromZero<T>{s.data<T>(), T(least)});
  };
  s.dtype() == Dtype::f64 ? run.template operator()<double>() : run.template operator()<float>();
}

Tensor divide_rows(const Tensor& x, const std::vector<double>& s) {
  const auto rows = static_cast<int64_t>(s.size());
  check(x.rank() >= 1 && x.size(0) == rows, "divide_rows: ", rows, " factors for ", x.shape());
  const Tensor factors = factors_on(x, s);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "divide_rows", [&]<class T>() {
    map("divide_rows", x.device(), x.count(),
        DivideRows<T>{x.data<T>(), y.data<T>(), factors.data<double>(),
                      rows == 0 ? 1 : x.count() / rows});
  });
  return y;
}

Tensor multiply_columns(const Tensor& x, const std::vector<double>& s) {
  const auto n = static_cast<int64_t>(s.size());
  check(x.rank() == 2 && x.size(1) == n, "multiply_columns: ", n, " factors for ", x.shape());
  const Tensor factors = factors_on(x, s);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "multiply_columns", [&]<class T>() {
    map("multiply_columns", x.device(), x.count(),
        MultiplyColumns<T>{x.data<T>(), y.data<T>(), factors.data<double>(), n});
  });
  return y;
}

namespace {
/// The number of groups.
int64_t checked_groups(const char* op, const Tensor& x, const ClipRange& range) {
  const int64_t groups = range.low.count();
  check(groups > 0 && x.count() % groups == 0, op, ": ", groups, " groups for ", x.shape());
  check_same(op, range.low, range.high);
  check_device(op, "the range", range.low, x.device());
  return groups;
}
}  // namespace

Tensor clamp_groups(const Tensor& x, const ClipRange& range) {
  const int64_t groups = checked_groups("clamp_groups", x, range);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "clamp_groups", [&]<class T>() {
    using A = acc_t<T>;
    map("clamp_groups", x.device(), x.count(),
        ClampGroups<T>{x.data<T>(), y.data<T>(), range.low.data<A>(), range.high.data<A>(),
                       x.count() / groups});
  });
  return y;
}

int64_t count_outside(const Tensor& x, const ClipRange& range) {
  const int64_t groups = checked_groups("count_outside", x, range);
  Tensor outside({groups}, Dtype::f64, x.device());
  dispatch_float(x.dtype(), "count_outside", [&]<class T>() {
    using A = acc_t<T>;
    const int64_t n = x.count() / groups;
    map_rows("count_outside", x.device(), groups, n,
             CountOutside<T>{x.data<T>(), range.low.data<A>(), range.high.data<A>(),
                             outside.data<double>(), n});
  });
  return static_cast<int64_t>(kernels::sum(outside).item());
}

ClipRange uniform_range(const Tensor& x, const std::vector<double>& low,
                        const std::vector<double>& high) {
  const Dtype dtype = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Shape shape = {static_cast<int64_t>(low.size())};
  return {Tensor::from(low, shape, dtype, x.device()),
          Tensor::from(high, shape, dtype, x.device())};
}

ClipRange least_error_range(const Tensor& w, const WeightConfig& config) {
  const int64_t in = w.size(1);
  const int64_t n = config.granularity == Granularity::per_tensor  ? w.count()
                    : config.granularity == Granularity::per_group ? config.group_size
                                                                   : in;
  const int64_t groups = w.count() / n;
  ClipRange range;
  dispatch_float(w.dtype(), "least_error_range", [&]<class T>() {
    using A = acc_t<T>;
    range.low = Tensor({groups}, dtype_of<A>::value, w.device());
    range.high = Tensor({groups}, dtype_of<A>::value, w.device());
    const GridRule<A> rule(config.bits, config.symmetric, config.form);
    map_rows("least_error_range", w.device(), groups, n,
             LeastErrorRange<T>{w.data<T>(), range.low.data<A>(), range.high.data<A>(), n, rule});
  });
  return range;
}

void widen_column_range(const Tensor& x, const Tensor& low, const Tensor& high) {
  check(x.rank() == 2, "widen_column_range: expected [rows, n], got ", x.shape());
  check_shape("widen_column_range", "low", low, {x.size(1)});
  check_shape("widen_column_range", "high", high, {x.size(1)});
  check_device("widen_column_range", "low", low, x.device());
  check_device("widen_column_range", "high", high, x.device());
  dispatch_float(x.dtype(), "widen_column_range", [&]<class T>() {
    map("widen_column_range", x.device(), x.size(1),
        WidenColumnRange<T>{x.data<T>(), low.data<double>(), high.data<double>(), x.size(0),
                            x.size(1)});
  });
}

void add_column_magnitudes(const Tensor& x, const Tensor& sum) {
  check(x.rank() == 2, "add_column_magnitudes: expected [rows, n], got ", x.shape());
  check_shape("add_column_magnitudes", "sum", sum, {x.size(1)});
  check_device("add_column_magnitudes", "sum", sum, x.device());
  dispatch_float(x.dtype(), "add_column_magnitudes", [&]<class T>() {
    map("add_column_magnitudes", x.device(), x.size(1),
        AddColumnMagnitudes<T>{x.data<T>(), sum.data<double>(), x.size(0), x.size(1)});
  });
}

}  // namespace cbq
