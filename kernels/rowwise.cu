// Norms and softmax: one row, several workers (launch.h).
#include "kernels/launch.h"
#include "kernels/ops.h"
#include "kernels/rows.h"

namespace cbq::kernels {
namespace {

template <class T>
struct RmsNorm {
  const T* x;
  const T* w;
  T* y;
  acc_t<T>* inverse_rms;
  int64_t n;
  acc_t<T> eps;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    T* out = y + r * n;
    const A inverse = A(1) / math::sqrt(row_dot(row, in, in, n) / A(n) + eps);
    if (row.lane() == 0) inverse_rms[r] = inverse;
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const T normalized = T(A(in[j]) * inverse);  // rounded to the dtype before the product
      out[j] = T(A(normalized) * A(w[j]));
    }
  }
};

// With x^ = x * inverse: dx = inverse * (w dy - x^ * mean(w dy x^)).
template <class T>
struct RmsNormBackward {
  const T* x;
  const T* w;
  const acc_t<T>* inverse_rms;
  const T* dy;
  T* dx;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    const T* g = dy + r * n;
    T* out = dx + r * n;
    const A inverse = inverse_rms[r];
    A dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) dot += A(w[j]) * A(g[j]) * A(in[j]);
    const A mean = row.sum(dot) * inverse / A(n);
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      out[j] = T(inverse * (A(w[j]) * A(g[j]) - A(in[j]) * inverse * mean));
    }
  }
};

// Rows of dy * x^, to be summed over rows for dw.
template <class T>
struct RmsNormWeightTerm {
  const T* x;
  const acc_t<T>* inverse_rms;
  const T* dy;
  T* term;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      term[r * n + j] = T(A(dy[r * n + j]) * A(x[r * n + j]) * inverse_rms[r]);
    }
  }
};

// One functor for plain and causal softmax.
template <class T>
struct Softmax {
  const T* x;
  T* y;
  int64_t n;
  int64_t period;
  acc_t<T> factor;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = x + r * n;
    T* out = y + r * n;
    const RowPrefix entries(period > 0 ? r % period + 1 : n, n);
    const A shift = largest(row, in, entries) * factor;
    // The exponential waits in the output, or is computed again where the output would round it.
    constexpr bool exact = std::is_same_v<T, A>;
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = row.lane(); j < entries.padded; j += row.lanes()) {
      const A e = entries.choose(j, math::exp(A(in[j]) * factor - shift), A(0));
      if constexpr (exact) out[j] = e;
      s += e;
    }
    const A inverse = A(1) / row.sum(s);
#pragma omp simd
    for (int64_t j = row.lane(); j < entries.padded; j += row.lanes()) {
      if constexpr (exact) {
        out[j] *= inverse;
      } else {
        const A e = math::exp(A(in[j]) * factor - shift) * inverse;
        out[j] = T(entries.choose(j, e, A(0)));
      }
    }
    for (int64_t j = entries.padded + row.lane(); j < n; j += row.lanes()) out[j] = T(A(0));
  }

  template <class Row>
  CBQ_HD acc_t<T> largest(Row& row, const T* in, const RowPrefix& entries) const {
    using A = acc_t<T>;
    A m = -INFINITY;
#pragma omp simd reduction(max : m)
    for (int64_t j = row.lane(); j < entries.padded; j += row.lanes()) {
      const A x_j = entries.choose(j, A(in[j]), A(-INFINITY));
      m = x_j > m ? x_j : m;
    }
    return row.max(m);
  }
};

template <class T>
struct SoftmaxBackward {
  const T* y;
  const T* dy;
  T* dx;
  int64_t n;
  int64_t period;
  acc_t<T> factor;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* p = y + r * n;
    const T* g = dy + r * n;
    T* out = dx + r * n;
    const int64_t count = period > 0 ? r % period + 1 : n;
    const A dot = row_dot(row, p, g, count);
#pragma omp simd
    for (int64_t j = row.lane(); j < count; j += row.lanes()) {
      out[j] = T(factor * A(p[j]) * (A(g[j]) - dot));
    }
    for (int64_t j = count + row.lane(); j < n; j += row.lanes()) out[j] = T(A(0));
  }
};

template <class T>
struct AddAlibi {
  T* x;
  const float* slopes;
  int64_t n, queries, heads;
  acc_t<T> factor;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    T* out = x + r * n;
    const A slope = slopes[r / queries % heads];
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const T bias = T(slope * A(static_cast<int32_t>(j)));  // of an i64 there is no vector form
      out[j] = T(factor * A(out[j]) + A(bias));
    }
  }
};

template <class T>
struct CrossEntropy {
  const T* logits;
  const int32_t* target;
  acc_t<T>* nll;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = logits + r * n;
    const A largest = row_max(row, in, n);
    const A total = row_sum_exp(row, in, n, largest);
    if (row.lane() == 0) nll[r] = math::log(total) + largest - A(in[target[r]]);
  }
};

template <class T>
struct CrossEntropyBackward {
  const T* logits;
  const int32_t* target;
  const acc_t<T>* dnll;
  T* dlogits;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const T* in = logits + r * n;
    T* out = dlogits + r * n;
    const A largest = row_max(row, in, n);
    const A inverse = A(1) / row_sum_exp(row, in, n, largest);
    const A d = dnll[r];
    const int64_t t = target[r];
#pragma omp simd
    for (int64_t j = row.lane(); j < n; j += row.lanes()) {
      const A p = math::exp(A(in[j]) - largest) * inverse;
      out[j] = T(d * (p - (j == t ? A(1) : A(0))));
    }
  }
};

void check_targets(const char* op, const Tensor& logits, const Tensor& target) {
  check(logits.rank() == 2 && target.dtype() == Dtype::i32 && target.rank() == 1 &&
            target.size(0) == logits.size(0),
        op, ": logits ", to_string(logits.shape()), " need i32 targets [rows], got ",
        name_of(target.dtype()), to_string(target.shape()));
  if (!host_can_read(target.device())) return;  // the model checks ids before they travel
  const int32_t* ids = target.data<int32_t>();
  for (int64_t r = 0; r < target.count(); ++r) {
    check(ids[r] >= 0 && ids[r] < logits.size(1), op, ": target ", ids[r], " at row ", r,
          " is outside the ", logits.size(1), " classes");
  }
}

template <class T>
constexpr Dtype acc_dtype = dtype_of<acc_t<T>>::value;
Dtype accumulation_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// A causal mask is square: row r of a head sees r + 1 of the row's entries.
void check_period(const char* op, const Tensor& x, int64_t period) {
  check(x.rank() >= 1 && period == x.size(-1) && (period > 0 || x.count() == 0), op, ": period ",
        period, " for rows of ", to_string(x.shape()));
}

}  // namespace

RmsNormResult rms_norm(const Tensor& x, const Tensor& w, double eps) {
  const auto [rows, n] = row_shape("rms_norm", x);
  check_shape("rms_norm", "weight", w, {n});
  check(w.dtype() == x.dtype(), "rms_norm: weight is ", name_of(w.dtype()), ", x is ",
        name_of(x.dtype()));
  RmsNormResult result{Tensor(x.shape(), x.dtype(), x.device()), Tensor()};
  dispatch_float(x.dtype(), "rms_norm", [&]<class T>() {
    result.inverse_rms = Tensor({rows}, acc_dtype<T>, x.device());
    map_rows("rms_norm", x.device(), rows, n,
             RmsNorm<T>{x.data<T>(), w.data<T>(), result.y.data<T>(),
                        result.inverse_rms.data<acc_t<T>>(), n, static_cast<acc_t<T>>(eps)});
  });
  return result;
}

std::pair<Tensor, Tensor> rms_norm_backward(const Tensor& x, const Tensor& w,
                                            const Tensor& inverse_rms, const Tensor& dy,
                                            bool want_dw) {
  check_same("rms_norm_backward", x, dy);
  const auto [rows, n] = row_shape("rms_norm_backward", x);
  check_shape("rms_norm_backward", "weight", w, {n});
  check_shape("rms_norm_backward", "inverse_rms", inverse_rms, {rows});
  check(w.dtype() == x.dtype() && inverse_rms.dtype() == accumulation_dtype(x.dtype()),
        "rms_norm_backward: x is ", name_of(x.dtype()), ", weight ", name_of(w.dtype()),
        ", inverse_rms ", name_of(inverse_rms.dtype()));
  Tensor dx(x.shape(), x.dtype(), x.device());
  Tensor dw;
  dispatch_float(x.dtype(), "rms_norm_backward", [&]<class T>() {
    const acc_t<T>* inverse = inverse_rms.data<acc_t<T>>();
    map_rows("rms_norm_backward", x.device(), rows, n,
             RmsNormBackward<T>{x.data<T>(), w.data<T>(), inverse, dy.data<T>(), dx.data<T>(), n});
    if (!want_dw) return;
    Tensor term({rows, n}, x.dtype(), x.device());
    map_rows("rms_norm_backward", x.device(), rows, n,
             RmsNormWeightTerm<T>{x.data<T>(), inverse, dy.data<T>(), term.data<T>(), n});
    dw = sum_rows(term);
  });
  return {dx, dw};
}

namespace {
Tensor softmax_into(const char* op, const Tensor& x, const Tensor& y, double factor,
                    int64_t period) {
  const auto [rows, n] = row_shape(op, x);
  dispatch_float(x.dtype(), op, [&]<class T>() {
    map_rows(op, x.device(), rows, n,
             Softmax<T>{x.data<T>(), y.data<T>(), n, period, static_cast<acc_t<T>>(factor)});
  });
  return y;
}

Tensor softmax_backward_into(const char* op, const Tensor& y, const Tensor& dy, const Tensor& dx,
                             double factor, int64_t period) {
  check_same(op, y, dy);
  const auto [rows, n] = row_shape(op, y);
  dispatch_float(y.dtype(), op, [&]<class T>() {
    map_rows(op, y.device(), rows, n,
             SoftmaxBackward<T>{y.data<T>(), dy.data<T>(), dx.data<T>(), n, period,
                                static_cast<acc_t<T>>(factor)});
  });
  return dx;
}
}  // namespace

Tensor softmax(const Tensor& x) {
  return softmax_into("softmax", x, Tensor(x.shape(), x.dtype(), x.device()), 1.0, 0);
}
Tensor softmax_backward(const Tensor& y, const Tensor& dy) {
  return softmax_backward_into("softmax_backward", y, dy, Tensor(y.shape(), y.dtype(), y.device()),
                               1.0, 0);
}
void causal_softmax_(const Tensor& x, double factor, int64_t period) {
  check_period("causal_softmax_", x, period);
  softmax_into("causal_softmax_", x, x, factor, period);
}
void causal_softmax_backward_(const Tensor& y, const Tensor& dy, double factor, int64_t period) {
  check_period("causal_softmax_backward_", y, period);
  softmax_backward_into("causal_softmax_backward_", y, dy, dy, factor, period);
}

void add_alibi_(const Tensor& x, const Tensor& slopes, double factor) {
  check(x.rank() == 3 && slopes.rank() == 1 && slopes.dtype() == Dtype::f32 && slopes.size(0) > 0 &&
            x.size(0) % slopes.size(0) == 0,
        "add_alibi_: scores ", to_string(x.shape()), " need f32 slopes of the heads, got ",
        name_of(slopes.dtype()), to_string(slopes.shape()));
  dispatch_float(x.dtype(), "add_alibi_", [&]<class T>() {
    map_rows("add_alibi_", x.device(), x.size(0) * x.size(1), x.size(2),
             AddAlibi<T>{x.data<T>(), slopes.data<float>(), x.size(2), x.size(1), slopes.size(0),
                         static_cast<acc_t<T>>(factor)});
  });
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target) {
  check_targets("cross_entropy", logits, target);
  Tensor nll;
  dispatch_float(logits.dtype(), "cross_entropy", [&]<class T>() {
    nll = Tensor({logits.size(0)}, acc_dtype<T>, logits.device());
    map_rows("cross_entropy", logits.device(), logits.size(0), logits.size(1),
             CrossEntropy<T>{logits.data<T>(), target.data<int32_t>(), nll.data<acc_t<T>>(),
                             logits.size(1)});
  });
  return nll;
}

Tensor cross_entropy_backward(const Tensor& logits, const Tensor& target, const Tensor& dnll) {
  check_targets("cross_entropy_backward", logits, target);
  check_shape("cross_entropy_backward", "gradient", dnll, {logits.size(0)});
  check(dnll.dtype() == accumulation_dtype(logits.dtype()), "cross_entropy_backward: logits are ",
        name_of(logits.dtype()), ", gradient is ", name_of(dnll.dtype()));
  Tensor dlogits(logits.shape(), logits.dtype(), logits.device());
  dispatch_float(logits.dtype(), "cross_entropy_backward", [&]<class T>() {
    map_rows("cross_entropy_backward", logits.device(), logits.size(0), logits.size(1),
             CrossEntropyBackward<T>{logits.data<T>(), target.data<int32_t>(),
                                     dnll.data<acc_t<T>>(), dlogits.data<T>(), logits.size(1)});
  });
  return dlogits;
}

}  // namespace cbq::kernels
