// Factors of rows and columns of a matrix, and what flows back to them.
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

template <class T>
struct Rescale {
  using A = acc_t<T>;
  const T* x;
  const A* row;     // [rows] or null
  const A* column;  // [n] or null
  T* y;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& worker, int64_t r) const {
    const A factor = row != nullptr ? row[r] : A(1);
    const T* in = x + r * n;
    T* out = y + r * n;
    if (column != nullptr) {
#pragma omp simd
      for (int64_t j = worker.lane(); j < n; j += worker.lanes()) {
        out[j] = T(factor * A(in[j]) * column[j]);
      }
    } else {
#pragma omp simd
      for (int64_t j = worker.lane(); j < n; j += worker.lanes()) out[j] = T(factor * A(in[j]));
    }
  }
};

/// d row_r = sum_j dy_rj x_rj column_j.
template <class T>
struct RowFactorGradient {
  using A = acc_t<T>;
  const T* x;
  const T* dy;
  const A* column;  // or null
  A* d_row;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& worker, int64_t r) const {
    const T* in = x + r * n;
    const T* g = dy + r * n;
    A sum = 0;
    if (column != nullptr) {
#pragma omp simd reduction(+ : sum)
      for (int64_t j = worker.lane(); j < n; j += worker.lanes()) {
        sum += A(g[j]) * A(in[j]) * column[j];
      }
    } else {
#pragma omp simd reduction(+ : sum)
      for (int64_t j = worker.lane(); j < n; j += worker.lanes()) sum += A(g[j]) * A(in[j]);
    }
    sum = worker.sum(sum);
    if (worker.lane() == 0) d_row[r] = sum;
  }
};

constexpr int64_t rows_per_block = 64;

/// partial[b, j] = sum over the rows r of block b of dy_rj x_rj row_r; the blocks are added up
/// afterwards, in their order.
template <class T>
struct ColumnFactorGradient {
  using A = acc_t<T>;
  const T* x;
  const T* dy;
  const A* row;  // or null
  A* partial;    // [blocks, n]
  int64_t rows, n;
  template <class Row>
  CBQ_HD void operator()(Row& worker, int64_t block) const {
    const int64_t begin = block * rows_per_block;
    const int64_t end = math::min(begin + rows_per_block, rows);
    A* sum = partial + block * n;
    for (int64_t j = worker.lane(); j < n; j += worker.lanes()) sum[j] = A(0);
    for (int64_t r = begin; r < end; ++r) {
      const A factor = row != nullptr ? row[r] : A(1);
      const T* in = x + r * n;
      const T* g = dy + r * n;
#pragma omp simd
      for (int64_t j = worker.lane(); j < n; j += worker.lanes()) {
        sum[j] += factor * A(g[j]) * A(in[j]);
      }
    }
  }
};

void check_factors(const char* op, const Tensor& x, const Tensor& row, const Tensor& column) {
  check(x.rank() == 2, op, ": expected a matrix, got ", x.shape());
  const auto fits = [&](const char* what, const Tensor& factors, int64_t count) {
    if (!factors.defined()) return;
    check(factors.shape() == Shape{count}, op, ": ", what, " factors ", factors.shape(), " for ",
          x.shape());
    const Dtype expected = x.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    check(factors.dtype() == expected, op, ": ", what, " factors are ", factors.dtype(),
          ", expected ", expected);
    check_device(op, "a factor", factors, x.device());
  };
  fits("row", row, x.size(0));
  fits("column", column, x.size(1));
}

template <class A>
const A* pointer_of(const Tensor& factors) {
  return factors.defined() ? factors.data<A>() : nullptr;
}

}  // namespace

Tensor rescale(const Tensor& x, const Tensor& row, const Tensor& column) {
  check_factors("rescale", x, row, column);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "rescale", [&]<class T>() {
    using A = acc_t<T>;
    map_rows(
        "rescale", x.device(), x.size(0), x.size(1),
        Rescale<T>{x.data<T>(), pointer_of<A>(row), pointer_of<A>(column), y.data<T>(), x.size(1)});
  });
  return y;
}

RescaleGradient rescale_backward(const Tensor& x, const Tensor& row, const Tensor& column,
                                 const Tensor& dy, bool want_row, bool want_column) {
  check_factors("rescale_backward", x, row, column);
  check_same("rescale_backward", x, dy);
  const int64_t rows = x.size(0), n = x.size(1);
  RescaleGradient d;
  dispatch_float(x.dtype(), "rescale_backward", [&]<class T>() {
    using A = acc_t<T>;
    if (want_row) {
      d.row = Tensor({rows}, dtype_of<A>::value, x.device());
      map_rows("rescale_backward", x.device(), rows, n,
               RowFactorGradient<T>{x.data<T>(), dy.data<T>(), pointer_of<A>(column),
                                    d.row.data<A>(), n});
    }
    if (want_column) {
      const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
      const Tensor partial({blocks, n}, dtype_of<A>::value, x.device());
      map_rows("rescale_backward", x.device(), blocks, rows_per_block * n,
               ColumnFactorGradient<T>{x.data<T>(), dy.data<T>(), pointer_of<A>(row),
                                       partial.data<A>(), rows, n});
      d.column = column_sums(partial);
    }
  });
  return d;
}

}  // namespace cbq::kernels
