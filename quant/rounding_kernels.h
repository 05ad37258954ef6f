// From the scalar functions of a rounding scheme to its kernels: RoundingOf<Scheme> is the
// RoundingScheme whose forward, backward and codes run them over a weight, on either device, for
// every parameterization (quant/rounding_view.h says how they see the weight).
#pragma once

#include <limits>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "quant/rounding_tuned.h"
#include "quant/rounding_view.h"
#include "quant/rounding_weight_gradient.h"

namespace cbq {

/// What a scheme inherits and overrides; docs/add-a-rounding-scheme.md explains each.
struct ScalarRounding {
  static constexpr Parameterization parameterization = Parameterization::dense;
  static constexpr Start start = Start::nearest;
  static constexpr bool relaxes = false;            // soft() exists and differs from hard()
  static constexpr bool straight_through_v = true;  // d_dv is declared, not the derivative of soft
  static constexpr bool v_in_weight_units = false;  // p is an offset of w: v = v0 + p unit / s
  static constexpr double v_min = -std::numeric_limits<double>::infinity();
  static constexpr double v_max = std::numeric_limits<double>::infinity();

  /// RoundingScheme::default_rate: a hundredth of a step of the grid.
  static constexpr double default_rate(int /*abits*/) { return 0.01; }
  template <class A>
  CBQ_HD static A initial(A, Start) {
    return A(0);
  }
  template <class A>
  CBQ_HD static A d_dv(A, A) {
    return A(1);
  }
  template <class A>
  CBQ_HD static A d_du(A, A) {
    return A(1);
  }
  template <class A>
  CBQ_HD static A relaxed(A) {
    return A(0.5);
  }
  template <class A>
  CBQ_HD static A d_relaxed(A) {
    return A(0);
  }
};

namespace detail {

/// Writes s (clamp(r + z, 0, 2^b - 1) - z), or with Out = uint8_t the code itself.
template <class Scheme, class T, class Out>
struct RoundForward {
  RoundingView<T> view;
  Out* y;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t i = item / view.ranges();
    const ColumnRange range = view.range(item % view.ranges());
    Slots<Row, acc_t<T>> u, v, offset;
    load_range<Scheme>(row, view, i, range, u, v, offset);
    if (view.hard) {
      store<true>(row, i, range, u, v);
    } else {
      store<false>(row, i, range, u, v);
    }
  }
  template <bool hard, class Row>
  CBQ_HD void store(Row& row, int64_t i, const ColumnRange& range, Slots<Row, acc_t<T>>& u,
                    Slots<Row, acc_t<T>>& v) const {
    using A = acc_t<T>;
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    const A largest = view.largest_code;
    Out* out = y + i * view.in + range.column;
#pragma omp simd
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A r = rounded<Scheme, hard>(u.at(row, j), v.at(row, j));
      const A q = math::clamp(r + z, A(0), largest);
      if constexpr (std::is_same_v<Out, uint8_t>) {
        out[j] = static_cast<uint8_t>(static_cast<int32_t>(q));
      } else {
        out[j] = Out(s * (q - z));
      }
    }
  }
};

/// One work item: `rows_per_chunk` rows of one range. Sums over a range (dL/ds, dL/dA1) and over a
/// chunk (dL/dA2) go to arrays of partial sums, which are added up in a fixed order afterwards.
template <class Scheme, class T>
struct RoundBackward {
  using A = acc_t<T>;
  RoundingView<T> view;
  const T* dw;
  A* d_scale;       // [ranges per group, out, groups]
  A* d_dense;       // [out, in] or null
  A* d_a1;          // [ranges, out, rank] or null
  A* d_a2;          // [chunks, rank, in] or null
  A* d_zero_point;  // like d_scale, or null
  int64_t rows_per_chunk;
  A regularizer, beta;
  const double* now;  // RoundingRegularizer::now, or null: the two above
  static constexpr bool bounded =
      Scheme::v_min > ScalarRounding::v_min || Scheme::v_max < ScalarRounding::v_max;

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const int64_t chunk = item / view.ranges(), index = item % view.ranges();
    const ColumnRange range = view.range(index);
    const int64_t first = chunk * rows_per_chunk;
    const int64_t last = math::min(first + rows_per_chunk, view.out);
    const A weight = now != nullptr ? A(now[0]) : regularizer;
    const A exponent = now != nullptr ? A(now[1]) : beta;
    Slots<Row, A> u, v, offset, dv;
    for (int64_t i = first; i < last; ++i) {
      load_range<Scheme>(row, view, i, range, u, v, offset);
      A ds = view.hard ? derivatives<true>(row, i, range, u, v, offset, dv)
                       : derivatives<false>(row, i, range, u, v, offset, dv);
      if (weight != A(0)) ds += add_regularizer(row, i, range, v, offset, dv, weight, exponent);
      ds = row.sum(ds);
      if (row.lane() == 0) {
        const int64_t within = index % view.ranges_per_group;
        d_scale[(within * view.out + i) * view.groups + range.group] = ds;
      }
      if (d_zero_point != nullptr) store_zero_point(row, i, range, index, u, v);
      if constexpr (bounded) keep_inside(row, range, v, dv);
      if (d_dense != nullptr) store_dense(row, i, range, dv);
      if (d_a1 != nullptr) add_low_rank(row, i, range, index, chunk, i == first, dv);
    }
  }

  /// dv = dL/dp; returns this worker's share of dL/ds.
  template <bool hard, class Row>
  CBQ_HD A derivatives(Row& row, int64_t i, const ColumnRange& range, Slots<Row, A>& u,
                       Slots<Row, A>& v, [[maybe_unused]] Slots<Row, A>& offset,
                       Slots<Row, A>& dv) const {
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    const A largest = view.largest_code;
    const A dw_dp = Scheme::v_in_weight_units ? unit_at(i, range) : s;  // where dr/dv = 1
    const T* g = dw + i * view.in + range.column;
    A ds = 0;
#pragma omp simd reduction(+ : ds)
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A uj = u.at(row, j), vj = v.at(row, j), gj = A(g[j]);
      const A q = rounded<Scheme, hard>(uj, vj) + z;
      const A inside = q >= A(0) && q <= largest ? A(1) : A(0);
      const A slope = inside * Scheme::d_dv(uj, vj);
      A through = inside * uj * Scheme::d_du(uj, vj);
      // An offset of the weight is a smaller part of a larger scale: d offset / ds = -offset / s.
      if constexpr (Scheme::v_in_weight_units) through += offset.at(row, j) * slope;
      ds += gj * (math::clamp(q, A(0), largest) - z - through);
      dv.at(row, j) = gj * dw_dp * slope;
    }
    return ds;
  }

  /// dL/dz = -s sum of dW^ over the range's weights beyond the ends of the grid.
  template <class Row>
  CBQ_HD void store_zero_point(Row& row, int64_t i, const ColumnRange& range, int64_t index,
                               Slots<Row, A>& u, Slots<Row, A>& v) const {
    const A s = view.scale[view.grid_index(i, range)],
            z = view.zero_point[view.grid_index(i, range)];
    const A largest = view.largest_code;
    const T* g = dw + i * view.in + range.column;
    A beyond = 0;
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A uj = u.at(row, j), vj = v.at(row, j);
      const A q = z + (view.hard ? rounded<Scheme, true>(uj, vj) : rounded<Scheme, false>(uj, vj));
      if (!(q >= A(0) && q <= largest)) beyond += A(g[j]);
    }
    beyond = row.sum(beyond);
    if (row.lane() == 0) {
      const int64_t within = index % view.ranges_per_group;
      d_zero_point[(within * view.out + i) * view.groups + range.group] = -s * beyond;
    }
  }

  /// Of an offset of the weight; 0 without variables.
  CBQ_HD A unit_at(int64_t i, const ColumnRange& range) const {
    return view.unit != nullptr ? view.unit[view.grid_index(i, range)] : A(0);
  }

  /// dv += weight d/dp (1 - |2h - 1|^beta); returns this worker's share of the regularizer's dL/ds,
  /// which is 0 unless p is an offset of the weight.
  template <class Row>
  CBQ_HD A add_regularizer(Row& row, [[maybe_unused]] int64_t i, const ColumnRange& range,
                           Slots<Row, A>& v, [[maybe_unused]] Slots<Row, A>& offset,
                           Slots<Row, A>& dv, A weight, A exponent) const {
    A ds = 0;
    if constexpr (Scheme::v_in_weight_units) {
      const A s = view.scale[view.grid_index(i, range)];
      const A dv_dp = unit_at(i, range) / s;
#pragma omp simd reduction(+ : ds)
      for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
        const A d = regularizer_gradient<Scheme>(v.at(row, j), weight, exponent);
        dv.at(row, j) += d * dv_dp;
        ds -= d * offset.at(row, j) / s;
      }
    } else {
#pragma omp simd
      for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
        dv.at(row, j) += weight * regularizer_slope<Scheme>(v.at(row, j), exponent);
      }
    }
    return ds;
  }

  /// Descent moves v against its gradient: at a bound, no gradient may point further out.
  template <class Row>
  CBQ_HD void keep_inside(Row& row, const ColumnRange& range, Slots<Row, A>& v,
                          Slots<Row, A>& dv) const {
#pragma omp simd
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A d = dv.at(row, j);
      dv.at(row, j) = leads_out<Scheme>(v.at(row, j), d) ? A(0) : d;
    }
  }

  template <class Row>
  CBQ_HD void store_dense(Row& row, int64_t i, const ColumnRange& range, Slots<Row, A>& dv) const {
    A* d = d_dense + i * view.in + range.column;
#pragma omp simd
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) d[j] = dv.at(row, j);
  }

  /// dA1[i, k] = sum_j A2[k, j] dv_j over the range; dA2[k, j] += A1[i, k] dv_j within the chunk.
  template <class Row>
  CBQ_HD void add_low_rank(Row& row, int64_t i, const ColumnRange& range, int64_t index,
                           int64_t chunk, bool first, Slots<Row, A>& dv) const {
    if (first) {
      for (int64_t k = 0; k < view.rank; ++k) {
        A* d2 = d_a2 + (chunk * view.rank + k) * view.in + range.column;
        for (int64_t j = row.lane(); j < range.width; j += row.lanes()) d2[j] = A(0);
      }
    }
    for_ranks(view.rank, [&](int64_t k, auto count) {
      A d1[count()];
      low_rank_gradients<count()>(
          row, range.width, view.a1 + i * view.rank + k, view.a2 + k * view.in + range.column,
          d_a2 + (chunk * view.rank + k) * view.in + range.column, view.in, dv, d1);
      for (int m = 0; m < count(); ++m) {
        const A sum = row.sum(d1[m]);
        if (row.lane() == 0) d_a1[(index * view.out + i) * view.rank + k + m] = sum;
      }
    });
  }
};

/// Per item: sum of 1 - |2h - 1|^beta over one range of one row.
template <class Scheme, class T>
struct RegularizerSum {
  using A = acc_t<T>;
  RoundingView<T> view;
  A* partial;  // [out, ranges]
  A beta;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    const ColumnRange range = view.range(item % view.ranges());
    Slots<Row, A> u, v, offset;
    load_range<Scheme>(row, view, item / view.ranges(), range, u, v, offset);
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = row.lane(); j < range.width; j += row.lanes()) {
      const A c = math::abs(A(2) * Scheme::relaxed(v.at(row, j)) - A(1));
      total += A(1) - math::exp(beta * math::log_positive(c > A(1e-12) ? c : A(1e-12)));
    }
    total = row.sum(total);
    if (row.lane() == 0) partial[item] = total;
  }
};

/// Chunks of rows for dA2: enough to keep a GPU busy, few enough that their partial sums
/// [chunks, r, in] stay below a quarter of the weight.
inline int64_t row_chunks(int64_t out, int64_t rank) {
  return std::clamp<int64_t>(out / (4 * rank), 1, 64);
}

}  // namespace detail

template <class Scheme>
class RoundingOf : public RoundingScheme {
 public:
  std::string name() const override { return Scheme::name; }
  std::string help() const override { return Scheme::help; }
  Parameterization default_parameterization() const override { return Scheme::parameterization; }
  Start default_start() const override { return Scheme::start; }
  bool relaxes() const override { return Scheme::relaxes; }
  double default_rate(int abits) const override { return Scheme::default_rate(abits); }
  bool gives_zero_point_gradient() const override { return true; }
  const RoundingMath* math() const override {
    static const RoundingMath functions{&Scheme::template initial<double>,
                                        &detail::rounded<Scheme, false, double>,
                                        &detail::rounded<Scheme, true, double>,
                                        &Scheme::template d_dv<double>,
                                        &Scheme::template d_du<double>,
                                        &Scheme::template relaxed<double>,
                                        &Scheme::template d_relaxed<double>,
                                        Scheme::v_min,
                                        Scheme::v_max,
                                        Scheme::straight_through_v,
                                        Scheme::v_in_weight_units};
    return &functions;
  }

  Tensor forward(const RoundingPass& pass) const override {
    detail::check_rounding_pass(name(), pass, Scheme::v_in_weight_units);
    Tensor y(pass.w.shape(), pass.w.dtype(), pass.w.device());
    detail::dispatch_weight(name(), pass.w.dtype(), [&]<class T>() { run<T, T>(pass, y); });
    return y;
  }

  Tensor codes(const RoundingPass& pass) const override {
    detail::check_rounding_pass(name(), pass, Scheme::v_in_weight_units);
    RoundingPass hard = pass;
    hard.hard = true;
    Tensor y(pass.w.shape(), Dtype::u8, pass.w.device());
    detail::dispatch_weight(name(), pass.w.dtype(), [&]<class T>() { run<T, uint8_t>(hard, y); });
    return y;
  }

  RoundingGradients backward(const RoundingPass& pass, const Tensor& dw,
                             const RoundingRegularizer& regularizer) const override {
    detail::check_rounding_pass(name(), pass, Scheme::v_in_weight_units);
    check_same(Scheme::name, pass.w, dw);
    const OpTimer timer(Scheme::name, pass.w.device());  // the partial sums added up, too
    RoundingGradients gradients;
    detail::dispatch_weight(name(), pass.w.dtype(),
                            [&]<class T>() { gradients = run_backward<T>(pass, dw, regularizer); });
    return gradients;
  }

  bool gives_weight_gradient() const override { return true; }
  Tensor weight_gradient(const RoundingPass& pass, const Tensor& dw) const override {
    detail::check_rounding_pass(name(), pass, Scheme::v_in_weight_units);
    check_same(Scheme::name, pass.w, dw);
    Tensor d(pass.w.shape(), pass.w.dtype(), pass.w.device());
    detail::dispatch_weight(name(), pass.w.dtype(), [&]<class T>() {
      const auto view = detail::view_of<T>(pass);
      map_rows(Scheme::name, d.device(), view.out * view.ranges(),
               math::min(view.group, detail::tile),
               detail::RoundWeightGradient<Scheme, T>{view, dw.data<T>(), d.data<T>()});
    });
    return d;
  }

  double regularizer(const RoundingPass& pass, const RoundingRegularizer& r) const override {
    if (!Scheme::relaxes || r.weight == 0.0) return 0.0;
    detail::check_rounding_pass(name(), pass, Scheme::v_in_weight_units);
    return detail::dispatch_weight(name(), pass.w.dtype(), [&]<class T>() {
      using A = acc_t<T>;
      const auto view = detail::view_of<T>(pass);
      Tensor partial({view.out * view.ranges()}, dtype_of<A>::value, pass.w.device());
      map_rows(Scheme::name, pass.w.device(), partial.count(), math::min(view.group, detail::tile),
               detail::RegularizerSum<Scheme, T>{view, partial.data<A>(), A(r.beta)});
      return r.weight * kernels::sum(partial).item();
    });
  }

 private:
  template <class T, class Out>
  static void run(const RoundingPass& pass, const Tensor& y) {
    const auto view = detail::view_of<T>(pass);
    if constexpr (std::is_same_v<T, Out> && !std::is_same_v<T, double>) {
      if (detail::fast_forward<Scheme>(view, y.device(), y.data<T>())) return;
    }
    map_rows(Scheme::name, y.device(), view.out * view.ranges(),
             math::min(view.group, detail::tile),
             detail::RoundForward<Scheme, T, Out>{view, y.data<Out>()});
  }

  template <class T>
  static RoundingGradients run_backward(const RoundingPass& pass, const Tensor& dw,
                                        const RoundingRegularizer& regularizer) {
    using A = acc_t<T>;
    if constexpr (!std::is_same_v<T, double>) {
      RoundingGradients fast;
      if (detail::fast_backward<Scheme, T>(pass, dw, regularizer, fast)) return fast;
    }
    const auto view = detail::view_of<T>(pass);
    const Device device = pass.w.device();
    const auto make = [&](Shape shape) { return Tensor(shape, dtype_of<A>::value, device); };
    const int64_t chunks = view.rank > 0 ? detail::row_chunks(view.out, view.rank) : view.out;
    detail::RoundBackward<Scheme, T> f{};
    f.view = view;
    f.dw = dw.data<T>();
    f.rows_per_chunk = (view.out + chunks - 1) / chunks;
    f.regularizer = Scheme::relaxes ? A(regularizer.weight) : A(0);
    f.beta = A(regularizer.beta);
    f.now = detail::regularizer_now(Scheme::name, Scheme::relaxes, regularizer, device);
    const int64_t used = (view.out + f.rows_per_chunk - 1) / f.rows_per_chunk;
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
    map_rows(Scheme::name, device, used * view.ranges(), math::min(view.group, detail::tile), f);
    const auto per_group = [&](const Tensor& partial) {
      const Tensor total = view.one_scale ? kernels::sum(partial) : detail::add_up(partial);
      return total.reshape(pass.scale.shape());
    };
    result.scale = per_group(d_scale);
    if (d_zero_point.defined()) result.zero_point = per_group(d_zero_point);
    if (d_a1.defined()) {
      result.a1 = detail::add_up(d_a1).reshape(pass.a1.shape());
      result.a2 = detail::add_up(d_a2).reshape(pass.a2.shape());
    }
    return result;
  }
};

/// Makes `Scheme` known by its name; the one line that a scheme's file ends with.
template <class Scheme>
bool register_rounding_scheme() {
  return rounding_schemes().add(Scheme::name, [] {
    return std::make_unique<RoundingOf<Scheme>>();
  }) && detail::guard_rounding_kernels<Scheme>();
}

}  // namespace cbq
