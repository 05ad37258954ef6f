// Learnable weight clipping (LWC of OmniQuant, Shao et al. 2024): two logits per group shrink the
// ends of the range of its weights,
//   high = sigmoid(u) max(W, 0),  low = sigmoid(l) min(W, 0),
// and scale and zero point follow from the ends by the rule of the grid (quant/grid_rule.h). Zero
// is always inside the range, which OmniQuant does not ask for.
#include <memory>

#include "kernels/formulas/math.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"
#include "quant/grid_rule.h"
#include "quant/grid_scheme.h"
#include "quant/scale_grid.h"

namespace cbq {
namespace {

/// sigmoid(4) = 0.982: where OmniQuant starts. No start lies further out, since the gradient of a
/// sigmoid near 1 vanishes.
constexpr double widest_logit = 4.0;
constexpr double narrowest_logit = -4.0;

/// One row = the weights that share a scale: max(W, 0) and min(W, 0).
template <class T>
struct FindEnds {
  using A = acc_t<T>;
  const T* w;
  A* high;
  A* low;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const T* x = w + r * n;
    A top = 0, negated_bottom = 0;
#pragma omp simd reduction(max : top, negated_bottom)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      top = A(x[j]) > top ? A(x[j]) : top;
      negated_bottom = -A(x[j]) > negated_bottom ? -A(x[j]) : negated_bottom;
    }
    top = row.max(top);
    negated_bottom = row.max(negated_bottom);
    if (row.lane() == 0) {
      high[r] = top;
      low[r] = -negated_bottom;
    }
  }
};

template <class A>
CBQ_HD A logit_of(A ratio, A widest, A narrowest) {
  const A most = math::sigmoid(widest), least = math::sigmoid(narrowest);
  if (!(ratio < most)) return widest;
  if (!(ratio > least)) return narrowest;
  return math::log(ratio / (A(1) - ratio));
}

/// The logits at which the ends are those of a given grid, as near as they can be.
template <class A>
struct StartLogits {
  const A* high;
  const A* low;
  const A* scale;
  const A* zero_point;
  A* upper;
  A* lower;
  GridRule<A> rule;
  CBQ_HD void operator()(int64_t i) const {
    const A s = scale[i], z = zero_point[i];
    const A widest = A(widest_logit), narrowest = A(narrowest_logit);
    A top = s * (rule.largest_code - z), bottom = -s * z;
    if (rule.symmetric) {
      // Both ends by the same factor, so that the larger one stays the larger one.
      const A reach =
          rule.restricted ? s * (rule.middle_code - A(1)) : s * rule.largest_code / A(2);
      const A factor = reach / math::max(high[i], -low[i]);
      top = factor * high[i];
      bottom = factor * low[i];
    }
    upper[i] = high[i] > A(0) ? logit_of(top / high[i], widest, narrowest) : widest;
    lower[i] = low[i] < A(0) ? logit_of(bottom / low[i], widest, narrowest) : widest;
  }
};

template <class A>
struct ClipGrid {
  const A* high;
  const A* low;
  const A* upper;
  const A* lower;
  A* scale;
  A* zero_point;
  GridRule<A> rule;
  CBQ_HD void operator()(int64_t i) const {
    const GridPoint<A> point =
        rule.from_range(math::sigmoid(lower[i]) * low[i], math::sigmoid(upper[i]) * high[i]);
    scale[i] = point.scale;
    zero_point[i] = point.zero_point;
  }
};

template <class A>
struct EndGradients {
  A high, low;
};

/// With h, l the ends and n = 2^b - 1, asymmetric: s = (h - l) / n, z = round(-l / s), so
///   dL/dh = D / n,  dL/dl = -D / n - (dL/dz) / s,  D = dL/ds + (dL/dz) l / s^2;
/// symmetric: s is a multiple of the longer end, which alone has a gradient. Groups of zeros have
/// a constant scale: no gradient.
template <class A>
CBQ_HD EndGradients<A> end_gradients(const GridRule<A>& rule, A h, A l, A d_scale, A dz) {
  const A s = rule.range_scale(l, h);
  if (!(s >= std::numeric_limits<A>::min())) return {A(0), A(0)};
  if (rule.symmetric) {
    const A d_reach = d_scale * rule.scale_per_reach();
    return h >= -l ? EndGradients<A>{d_reach, A(0)} : EndGradients<A>{A(0), -d_reach};
  }
  const A total = d_scale + dz * l / (s * s);
  return {total / rule.largest_code, -total / rule.largest_code - dz / s};
}

template <class A>
struct ClipGradient {
  const A* high;
  const A* low;
  const A* upper;
  const A* lower;
  const A* d_scale;
  const A* d_zero_point;
  A* d_upper;
  A* d_lower;
  GridRule<A> rule;
  CBQ_HD void operator()(int64_t i) const {
    const A up = math::sigmoid(upper[i]), down = math::sigmoid(lower[i]);
    const EndGradients<A> d =
        end_gradients(rule, up * high[i], down * low[i], d_scale[i], d_zero_point[i]);
    d_upper[i] = d.high * high[i] * up * (A(1) - up);
    d_lower[i] = d.low * low[i] * down * (A(1) - down);
  }
};

/// The ends of a row are its largest and its smallest weight: they share what flows back to the
/// end, where several are equal.
template <class T>
struct ClipWeightGradient {
  using A = acc_t<T>;
  const T* w;
  const A* high;
  const A* low;
  const A* upper;
  const A* lower;
  const A* d_scale;
  const A* d_zero_point;
  T* dw;
  int64_t n;
  GridRule<A> rule;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const A top = high[r], bottom = low[r];
    const A up = math::sigmoid(upper[r]), down = math::sigmoid(lower[r]);
    const EndGradients<A> d =
        end_gradients(rule, up * top, down * bottom, d_scale[r], d_zero_point[r]);
    const T* x = w + r * n;
    A at_top = 0, at_bottom = 0;
#pragma omp simd reduction(+ : at_top, at_bottom)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      at_top += A(x[j]) == top ? A(1) : A(0);
      at_bottom += A(x[j]) == bottom ? A(1) : A(0);
    }
    at_top = row.sum(at_top);
    at_bottom = row.sum(at_bottom);
    const A to_top = top > A(0) ? d.high * up / at_top : A(0);
    const A to_bottom = bottom < A(0) ? d.low * down / at_bottom : A(0);
    T* out = dw + r * n;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      if (A(x[j]) == top) out[j] = T(A(out[j]) + to_top);
      if (A(x[j]) == bottom) out[j] = T(A(out[j]) + to_bottom);
    }
  }
};

class ClippedGrid : public GridScheme {
 public:
  std::string name() const override { return "clip"; }
  std::string help() const override {
    return "two learned logits per group shrink the ends of the range (LWC of OmniQuant)";
  }
  std::string rate() const override { return "clip"; }
  bool moves_zero_point() const override { return true; }
  bool handles_weight_outliers() const override { return true; }

  std::vector<std::pair<std::string, Tensor>> start(const Tensor& w, const WeightGrid& grid,
                                                    const WeightConfig& config) override {
    config_ = config;
    const auto make = [&] {
      return Tensor(grid.scale.shape(), grid.scale.dtype(), grid.scale.device());
    };
    high_ = make();
    low_ = make();
    find_ends(w);
    const int64_t groups = grid.scale.count();
    Tensor upper = make(), lower = make();
    if (config.search == ScaleSearch::min_max) {
      kernels::fill(upper, widest_logit);
      kernels::fill(lower, widest_logit);
      return {{"upper_logit", upper}, {"lower_logit", lower}};
    }
    detail::dispatch_scale("clip", upper.dtype(), [&]<class A>() {
      map("clip", w.device(), groups,
          StartLogits<A>{high_.data<A>(), low_.data<A>(), grid.scale.data<A>(),
                         grid.zero_point.data<A>(), upper.data<A>(), lower.data<A>(), rule<A>()});
    });
    return {{"upper_logit", upper}, {"lower_logit", lower}};
  }

  GridValues values(const std::vector<Tensor>& variables) const override {
    const Tensor &upper = variables.at(0), &lower = variables.at(1);
    check_same("clip", high_, upper);
    check_same("clip", high_, lower);
    GridValues now{Tensor(upper.shape(), upper.dtype(), upper.device()),
                   Tensor(upper.shape(), upper.dtype(), upper.device())};
    detail::dispatch_scale("clip", upper.dtype(), [&]<class A>() {
      map("clip_of", upper.device(), upper.count(),
          ClipGrid<A>{high_.data<A>(), low_.data<A>(), upper.data<A>(), lower.data<A>(),
                      now.scale.data<A>(), now.zero_point.data<A>(), rule<A>()});
    });
    return now;
  }

  std::vector<Tensor> gradients(const std::vector<Tensor>& variables, const GridValues& /*now*/,
                                const GridValues& d) const override {
    const Tensor &upper = variables.at(0), &lower = variables.at(1);
    check_same("clip", high_, d.scale);
    check_same("clip", high_, d.zero_point);
    Tensor d_upper(upper.shape(), upper.dtype(), upper.device());
    Tensor d_lower(upper.shape(), upper.dtype(), upper.device());
    detail::dispatch_scale("clip", upper.dtype(), [&]<class A>() {
      map("clip_gradient", upper.device(), upper.count(),
          ClipGradient<A>{high_.data<A>(), low_.data<A>(), upper.data<A>(), lower.data<A>(),
                          d.scale.data<A>(), d.zero_point.data<A>(), d_upper.data<A>(),
                          d_lower.data<A>(), rule<A>()});
    });
    return {d_upper, d_lower};
  }

  bool follows_weight() const override { return true; }
  void follow(const Tensor& w) override { find_ends(w); }

  void add_weight_gradient(const Tensor& w, const std::vector<Tensor>& variables,
                           const GridValues& d, const Tensor& dw) const override {
    const Tensor &upper = variables.at(0), &lower = variables.at(1);
    check_same("clip", high_, d.scale);
    check_same("clip", high_, d.zero_point);
    check_same("clip", w, dw);
    const int64_t groups = high_.count(), n = w.count() / groups;
    dispatch_float(w.dtype(), "clip", [&]<class T>() {
      using A = acc_t<T>;
      map_rows("clip_weight_gradient", w.device(), groups, n,
               ClipWeightGradient<T>{w.data<T>(), high_.data<A>(), low_.data<A>(), upper.data<A>(),
                                     lower.data<A>(), d.scale.data<A>(), d.zero_point.data<A>(),
                                     dw.data<T>(), n, rule<A>()});
    });
  }

 private:
  /// In place: a captured step reads and writes the same memory each time.
  void find_ends(const Tensor& w) const {
    const int64_t groups = high_.count(), n = w.count() / groups;
    dispatch_float(w.dtype(), "clip", [&]<class T>() {
      using A = acc_t<T>;
      map_rows("clip", w.device(), groups, n,
               FindEnds<T>{w.data<T>(), high_.data<A>(), low_.data<A>(), n});
    });
  }
  template <class A>
  GridRule<A> rule() const {
    return GridRule<A>(config_.bits, config_.symmetric, config_.form);
  }

  WeightConfig config_;
  Tensor high_, low_;  // of the weights, like the scale
};

[[maybe_unused]] const bool registered =
    grid_schemes().add("clip", [] { return std::make_unique<ClippedGrid>(); });

}  // namespace
}  // namespace cbq
