// Sums and extrema. Fixed order everywhere: partial results per chunk of a fixed size, then the
// chunks in order, so the number of threads does not change a bit of the result.
#include "kernels/launch/launch.h"
#include "kernels/launch/rows.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

constexpr int64_t chunk_size = 4096;

struct Identity {
  template <class A>
  CBQ_HD static A apply(A x) {
    return x;
  }
};
struct Square {
  template <class A>
  CBQ_HD static A apply(A x) {
    return x * x;
  }
};
// 1 for NaN and infinities: x - x is 0 for every finite x and NaN otherwise.
struct NonFinite {
  template <class A>
  CBQ_HD static A apply(A x) {
    return x - x == A(0) ? A(0) : A(1);
  }
};

template <class T, class F>
struct ChunkSums {
  const T* x;
  acc_t<T>* partial;
  int64_t count;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    using A = acc_t<T>;
    const int64_t begin = r * chunk_size;
    const int64_t n = math::min(chunk_size, count - begin);
    const T* in = x + begin;
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t j = row.lane(); j < n; j += row.lanes()) s += F::apply(A(in[j]));
    s = row.sum(s);
    if (row.lane() == 0) partial[r] = s;
  }
};

template <class F>
Tensor reduce(const char* op, const Tensor& x) {
  Tensor current = x;
  bool first = true;
  // Each pass shrinks by chunk_size; only the first applies F.
  while (first || current.count() > 1) {
    const int64_t chunks = std::max<int64_t>(1, (current.count() + chunk_size - 1) / chunk_size);
    dispatch_float(current.dtype(), op, [&]<class T>() {
      Tensor partial({chunks}, dtype_of<acc_t<T>>::value, x.device());
      acc_t<T>* out = partial.data<acc_t<T>>();
      if (first) {
        map_rows(op, x.device(), chunks, chunk_size,
                 ChunkSums<T, F>{current.data<T>(), out, current.count()});
      } else {
        map_rows(op, x.device(), chunks, chunk_size,
                 ChunkSums<T, Identity>{current.data<T>(), out, current.count()});
      }
      current = partial;
    });
    first = false;
  }
  return current;
}

// How a column is folded. Every start is 0, and folding results of folds gives the same answer.
struct SumOf {
  template <class A>
  CBQ_HD static A apply(A total, A x) {
    return total + x;
  }
};
struct AbsMaxOf {
  template <class A>
  CBQ_HD static A apply(A largest, A x) {
    return math::max(math::abs(x), largest);
  }
};

// Columns in two steps: blocks of rows, then the blocks. A worker owns whole columns of a block;
// the columns are cut into slabs, so that a few long rows are work for many, too.
constexpr int64_t rows_per_block = 64, slab = 512;
int64_t slabs_of(int64_t n) { return (n + slab - 1) / slab; }

template <class T, class Out, class Op>
struct ColumnFold {
  const T* x;
  Out* y;  // [blocks, n]
  int64_t rows;
  int64_t n;
  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t item) const {
    using A = acc_t<T>;
    const int64_t slabs = (n + slab - 1) / slab, block = item / slabs;
    const int64_t begin = block * rows_per_block;
    const int64_t end = math::min(begin + rows_per_block, rows);
    const int64_t first = item % slabs * slab, last = math::min(first + slab, n);
    // Columns summed side by side, in registers; of several workers each takes one at a time, so
    // that neighbours read neighbours.
    constexpr int tile = std::is_same_v<Row, SerialRow> ? 16 : 1;
    for (int64_t j0 = first + row.lane() * tile; j0 < last; j0 += row.lanes() * tile) {
      A s[tile] = {};
      const int64_t width = math::min<int64_t>(tile, last - j0);
      if (width == tile) {
        for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
          for (int j = 0; j < tile; ++j) s[j] = Op::apply(s[j], A(x[r * n + j0 + j]));
        }
      } else {
        for (int64_t r = begin; r < end; ++r) {
          for (int64_t j = 0; j < width; ++j) s[j] = Op::apply(s[j], A(x[r * n + j0 + j]));
        }
      }
      for (int64_t j = 0; j < width; ++j) y[block * n + j0 + j] = Out(s[j]);
    }
  }
};

template <class T>
struct MinMaxRows {
  using Element = T;
  const T* x;
  T* low;
  T* high;
  int64_t n;
  bool vectorizes() const { return aligned(x); }
  template <class Row>
  CBQ_HD void operator()(const Row& row, int64_t r) const {
    using A = acc_t<T>;
    const auto ends = [](A v) { return MultiReduce<A, 3>{{v, -v, v == v ? A(0) : A(1)}}; };
    const MultiReduce<A, 3> largest = row.max(ends, row.read(x + r * n));
    if (!row.first()) return;
    // A NaN anywhere is the row's answer, not a value to pass over.
    const bool nan = largest.at[2] > A(0);
    low[r] = T(nan ? A(NAN) : -largest.at[1]);
    high[r] = T(nan ? A(NAN) : largest.at[0]);
  }
};

/// Folds the columns of x [rows, n] into [n] of type Out; T and Out accumulate in the same type.
template <class T, class Out, class Op>
Tensor fold_columns(const char* op, const Tensor& x, int64_t rows, int64_t n) {
  using A = acc_t<T>;
  const auto blocks_of = [](int64_t r) {
    return std::max<int64_t>(1, (r + rows_per_block - 1) / rows_per_block);
  };
  Tensor y({n}, dtype_of<Out>::value, x.device());
  if (blocks_of(rows) == 1) {
    map_rows(op, x.device(), slabs_of(n), 4 * slab,
             ColumnFold<T, Out, Op>{x.data<T>(), y.data<Out>(), rows, n});
    return y;
  }
  Tensor current({blocks_of(rows), n}, dtype_of<A>::value, x.device());
  map_rows(op, x.device(), current.size(0) * slabs_of(n), rows_per_block * slab,
           ColumnFold<T, A, Op>{x.data<T>(), current.data<A>(), rows, n});
  while (current.size(0) > rows_per_block) {
    Tensor next({blocks_of(current.size(0)), n}, dtype_of<A>::value, x.device());
    map_rows(op, x.device(), next.size(0) * slabs_of(n), rows_per_block * slab,
             ColumnFold<A, A, Op>{current.data<A>(), next.data<A>(), current.size(0), n});
    current = next;
  }
  map_rows(op, x.device(), slabs_of(n), 4 * slab,
           ColumnFold<A, Out, Op>{current.data<A>(), y.data<Out>(), current.size(0), n});
  return y;
}

}  // namespace

Tensor sum(const Tensor& x) { return reduce<Identity>("sum", x); }

double sum_of_squares(const Tensor& x) { return reduce<Square>("sum_of_squares", x).item(); }

bool has_non_finite(const Tensor& x) {
  return reduce<NonFinite>("has_non_finite", x).item() != 0.0;
}

Tensor column_sums(const Tensor& x) {
  const auto [rows, n] = row_shape("column_sums", x);
  return dispatch_float(x.dtype(), "column_sums", [&]<class T>() {
    return fold_columns<T, T, SumOf>("column_sums", x, rows, n);
  });
}

std::pair<Tensor, Tensor> min_max_rows(const Tensor& x) {
  const auto [rows, n] = row_shape("min_max_rows", x);
  check(n > 0, "min_max_rows: empty rows");
  Tensor low({rows}, x.dtype(), x.device()), high({rows}, x.dtype(), x.device());
  dispatch_float(x.dtype(), "min_max_rows", [&]<class T>() {
    map_rows("min_max_rows", x.device(), rows, n,
             MinMaxRows<T>{x.data<T>(), low.data<T>(), high.data<T>(), n});
  });
  return {low, high};
}

Tensor abs_max_columns(const Tensor& x) {
  const auto [rows, n] = row_shape("abs_max_columns", x);
  return dispatch_float(x.dtype(), "abs_max_columns", [&]<class T>() {
    return fold_columns<T, float, AbsMaxOf>("abs_max_columns", x, rows, n);
  });
}

}  // namespace cbq::kernels
