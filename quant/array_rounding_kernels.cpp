#include "quant/array_rounding_kernels.h"

#include <cmath>
#include <limits>

#include "quant/rounding_kernels.h"

namespace cbq::detail {
namespace {

constexpr const char* op = "array rounding";

/// v = p: what load_part() adds the start to, without a start.
struct NoStart : ScalarRounding {};

/// u and p of a range.
template <class T>
struct LoadArrays {
  using A = acc_t<T>;
  RoundingView<T> view;
  A* u;
  A* p;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t i = item / view.ranges();
    const ColumnRange range = view.range(item % view.ranges());
    Slots<Row, A> us, ps, unused;
    load_range<NoStart>(row, view, i, range, us, ps, unused);
    const int64_t first = i * view.in + range.column;
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      u[first + j] = us.at(row, j);
      p[first + j] = ps.at(row, j);
    }
  }
};

template <class A>
struct Bounded {
  const A* v0;  // or null
  const A* p;
  A* v;
  A low, high;
  CBQ_HD void operator()(int64_t i) const {
    v[i] = math::clamp((v0 != nullptr ? v0[i] : A(0)) + p[i], low, high);
  }
};

template <class T, class Out>
struct ArrayWeight {
  using A = acc_t<T>;
  RoundingView<T> view;
  const A* r;
  Out* y;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t i = item / view.ranges();
    const ColumnRange range = view.range(item % view.ranges());
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    const int64_t first = i * view.in + range.column;
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A q = math::clamp(r[first + j] + z, A(0), view.largest_code);
      if constexpr (std::is_same_v<Out, uint8_t>) {
        y[first + j] = static_cast<uint8_t>(static_cast<int32_t>(q));
      } else {
        y[first + j] = Out(s * (q - z));
      }
    }
  }
};

/// RoundBackward with the scheme's values from arrays; partial sums lie where it puts them.
template <class T>
struct ArrayBackward {
  using A = acc_t<T>;
  RoundingView<T> view;
  const T* dw;
  const A *u, *v, *r, *d_dv, *d_du, *relaxed, *d_relaxed;  // null: ones; no regularizer
  A *d_scale, *d_dense, *d_a1, *d_a2, *d_zero_point;
  int64_t rows_per_chunk;
  A weight, beta, v_min, v_max;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t chunk = item / view.ranges(), index = item % view.ranges();
    const ColumnRange range = view.range(index);
    const int64_t first = chunk * rows_per_chunk;
    const int64_t last = math::min(first + rows_per_chunk, view.out);
    Slots<Row, A> dv;
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = i * view.in + range.column;
      const int64_t within = index % view.ranges_per_group;
      const int64_t place = (within * view.out + i) * view.groups + range.group;
      d_scale[place] = derivatives(row, i, range, at, dv);
      if (d_zero_point != nullptr) d_zero_point[place] = zero_point_gradient(i, range, at);
      for (int64_t j = 0; j < range.width; ++j) {
        if (relaxed != nullptr) dv.at(row, j) += regularizer_slope_at(at + j);
        const A x = v[at + j], d = dv.at(row, j);
        if ((x >= v_max && d < A(0)) || (x <= v_min && d > A(0))) dv.at(row, j) = A(0);
        if (d_dense != nullptr) d_dense[at + j] = dv.at(row, j);
      }
      if (d_a1 != nullptr) add_low_rank_part(row, i, range, index, chunk, i == first, dv);
    }
  }

  /// `count` elements from an array, or ones.
  template <class Row>
  CBQ_HD static void load(Row& row, int64_t count, const A* from, Slots<Row, A>& to) {
    for (int64_t j = 0; j < count; ++j) to.at(row, j) = from != nullptr ? from[j] : A(1);
  }

  /// dv = dL/dp; returns dL/ds of the range. The loop is that of scalar schemes, so that g++ adds
  /// in the same order.
  template <class Row>
  CBQ_HD A derivatives(Row& row, int64_t i, const ColumnRange& range, int64_t at,
                       Slots<Row, A>& dv) const {
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    const A largest = view.largest_code;
    const T* g = dw + at;
    Slots<Row, A> us, rs, slopes_v, slopes_u;
    load(row, range.width, u + at, us);
    load(row, range.width, r + at, rs);
    load(row, range.width, d_dv != nullptr ? d_dv + at : nullptr, slopes_v);
    load(row, range.width, d_du != nullptr ? d_du + at : nullptr, slopes_u);
    A ds = 0;
#pragma omp simd reduction(+ : ds)
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A gj = A(g[j]);
      const A q = rs.at(row, j) + z;
      const A inside = q >= A(0) && q <= largest ? A(1) : A(0);
      const A slope = inside * slopes_v.at(row, j);
      const A through = inside * us.at(row, j) * slopes_u.at(row, j);
      ds += gj * (math::clamp(q, A(0), largest) - z - through);
      dv.at(row, j) = gj * s * slope;
    }
    return ds;
  }

  CBQ_HD A zero_point_gradient(int64_t i, const ColumnRange& range, int64_t at) const {
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    A beyond = 0;
    for (int64_t j = 0; j < range.width; ++j) {
      const A q = z + r[at + j];
      if (!(q >= A(0) && q <= view.largest_code)) beyond += A(dw[at + j]);
    }
    return -s * beyond;
  }

  /// weight d/dv (1 - |2h - 1|^beta), as regularizer_slope() of scalar schemes.
  CBQ_HD A regularizer_slope_at(int64_t i) const {
    const A c = A(2) * relaxed[i] - A(1);
    const A size = math::abs(c) > A(1e-12) ? math::abs(c) : A(1e-12);
    const A power = math::exp((beta - A(1)) * math::log_positive(size));
    return weight * (beta * power * (c < A(0) ? A(1) : A(-1)) * A(2) * d_relaxed[i]);
  }

  template <class Row>
  CBQ_HD void add_low_rank_part(Row& row, int64_t i, const ColumnRange& range, int64_t index,
                                int64_t chunk, bool first, Slots<Row, A>& dv) const {
    if (first) {
      for (int64_t k = 0; k < view.rank; ++k) {
        A* d2 = d_a2 + (chunk * view.rank + k) * view.in + range.column;
        for (int64_t j = 0; j < range.width; ++j) d2[j] = A(0);
      }
    }
    for_ranks(view.rank, [&](int64_t k, auto count) {
      A d1[count()];
      low_rank_gradients<count()>(
          row, range.width, view.a1 + i * view.rank + k, view.a2 + k * view.in + range.column,
          d_a2 + (chunk * view.rank + k) * view.in + range.column, view.in, dv, d1);
      for (int m = 0; m < count(); ++m) d_a1[(index * view.out + i) * view.rank + k + m] = d1[m];
    });
  }
};

template <class A>
const A* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<A>() : nullptr;
}

template <class T, class F>
void for_ranges(const RoundingView<T>& view, int64_t chunks, const F& f) {
  map_rows(op, Device::cpu(), chunks * view.ranges(), math::min(view.group, tile), f);
}

template <class T>
RoundingGradients gradients_of(const RoundingPass& pass, const Tensor& dw, const ArraySlopes& x) {
  using A = acc_t<T>;
  ArrayBackward<T> f{};
  const RoundingView<T>& view = f.view = view_of<T>(pass);
  const auto make = [&](Shape shape) { return Tensor(std::move(shape), dtype_of<A>::value); };
  const int64_t chunks = view.rank > 0 ? row_chunks(view.out, view.rank) : view.out;
  f.rows_per_chunk = (view.out + chunks - 1) / chunks;
  const int64_t used = (view.out + f.rows_per_chunk - 1) / f.rows_per_chunk;
  f.dw = dw.data<T>();
  f.u = x.u.data<A>();
  f.v = x.v.data<A>();
  f.r = x.r.data<A>();
  f.d_dv = data_or_null<A>(x.d_dv);
  f.d_du = data_or_null<A>(x.d_du);
  f.relaxed = data_or_null<A>(x.relaxed);
  f.d_relaxed = data_or_null<A>(x.d_relaxed);
  f.weight = A(x.weight);
  f.beta = A(x.beta);
  f.v_min = A(x.v_min);
  f.v_max = A(x.v_max);
  const Tensor d_scale = make({view.ranges_per_group, view.out * view.groups});
  f.d_scale = d_scale.data<A>();
  RoundingGradients result;
  Tensor d_a1, d_a2, d_zero_point;
  if (pass.wants_zero_point) {
    d_zero_point = make(d_scale.shape());
    f.d_zero_point = d_zero_point.data<A>();
  }
  if (view.dense != nullptr) {
    result.dense = make(pass.dense.shape());
    f.d_dense = result.dense.data<A>();
  } else if (view.rank > 0) {
    d_a1 = make({view.ranges(), view.out * view.rank});
    d_a2 = make({used, view.rank * view.in});
    f.d_a1 = d_a1.data<A>();
    f.d_a2 = d_a2.data<A>();
  }
  for_ranges(view, used, f);
  const auto per_group = [&](const Tensor& partial) {
    const Tensor total = view.one_scale ? kernels::sum(partial) : add_up(partial);
    return total.reshape(pass.scale.shape());
  };
  result.scale = per_group(d_scale);
  if (d_zero_point.defined()) result.zero_point = per_group(d_zero_point);
  if (d_a1.defined()) {
    result.a1 = add_up(d_a1).reshape(pass.a1.shape());
    result.a2 = add_up(d_a2).reshape(pass.a2.shape());
  }
  return result;
}

/// f.operator()<T>() for the dtype of a weight.
template <class F>
decltype(auto) for_weight(const RoundingPass& pass, F&& f) {
  return dispatch_weight(op, pass.w.dtype(), std::forward<F>(f));
}

}  // namespace

std::pair<Tensor, Tensor> scaled_weight_and_variable(const RoundingPass& pass) {
  return for_weight(pass, [&]<class T>() {
    using A = acc_t<T>;
    const auto view = view_of<T>(pass);
    const Tensor u(pass.w.shape(), dtype_of<A>::value), p(pass.w.shape(), dtype_of<A>::value);
    for_ranges(view, view.out, LoadArrays<T>{view, u.template data<A>(), p.template data<A>()});
    return std::pair(u, p);
  });
}

Tensor bounded_variable(const Tensor& v0, const Tensor& p, double low, double high) {
  Tensor v(p.shape(), p.dtype());
  dispatch_float(p.dtype(), op, [&]<class A>() {
    if constexpr (std::is_same_v<A, float> || std::is_same_v<A, double>) {
      const Bounded<A> f{data_or_null<A>(v0), p.data<A>(), v.data<A>(), A(low), A(high)};
      for (int64_t i = 0; i < v.count(); ++i) f(i);
    }
  });
  return v;
}

std::optional<double> first_fraction(const Tensor& r) {
  std::optional<double> found;
  dispatch_float(r.dtype(), op, [&]<class A>() {
    const A* values = r.data<A>();
    for (int64_t i = 0; i < r.count() && !found; ++i) {
      const auto value = static_cast<double>(values[i]);
      if (std::isfinite(value) && std::rint(value) != value) found = value;
    }
  });
  return found;
}

Tensor array_weight(const RoundingPass& pass, const Tensor& r, Dtype dtype) {
  Tensor y(pass.w.shape(), dtype);
  for_weight(pass, [&]<class T>() {
    using A = acc_t<T>;
    const auto view = view_of<T>(pass);
    if (dtype == Dtype::u8) {
      for_ranges(view, view.out, ArrayWeight<T, uint8_t>{view, r.data<A>(), y.data<uint8_t>()});
    } else {
      for_ranges(view, view.out, ArrayWeight<T, T>{view, r.data<A>(), y.data<T>()});
    }
  });
  return y;
}

RoundingGradients array_gradients(const std::string& name, const RoundingPass& pass,
                                  const Tensor& dw, const ArraySlopes& slopes) {
  const OpTimer timer(name.c_str(), Device::cpu());
  return for_weight(pass, [&]<class T>() { return gradients_of<T>(pass, dw, slopes); });
}

Tensor array_weight_gradient(const RoundingPass& pass, const Tensor& dw, const Tensor& r,
                             const Tensor& d_du) {
  Tensor d(pass.w.shape(), pass.w.dtype());
  for_weight(pass, [&]<class T>() {
    using A = acc_t<T>;
    const auto view = view_of<T>(pass);
    const A* slopes = data_or_null<A>(d_du);
    for (int64_t i = 0; i < d.count(); ++i) {
      const int64_t row = i / view.in, column = i % view.in;
      const int64_t group = view.one_scale ? 0 : row * view.groups + column / view.group;
      const A q = r.data<A>()[i] + view.zero_point[group];
      const bool inside = q >= A(0) && q <= view.largest_code;
      const A slope = slopes != nullptr ? slopes[i] : A(1);
      d.data<T>()[i] = T(inside ? A(dw.data<T>()[i]) * slope : A(0));
    }
  });
  return d;
}

std::pair<double, double> numbers_now(const std::string& name,
                                      const RoundingRegularizer& regularizer, Device device) {
  const double* now = regularizer_now(name.c_str(), true, regularizer, device);
  if (now != nullptr) return {now[0], now[1]};
  return {regularizer.weight, regularizer.beta};
}

}  // namespace cbq::detail
