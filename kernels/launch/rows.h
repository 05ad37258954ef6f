// Small helpers for functors that work on one row (see launch.h).
#pragma once

#include <cstdint>

#include "kernels/formulas/math.h"
#include "tensor/tensor.h"

namespace cbq {

/// Length of a row (last axis) and number of rows (all other axes).
struct RowShape {
  int64_t rows;
  int64_t width;
};
inline RowShape row_shape(const char* op, const Tensor& x) {
  check(x.rank() >= 1, op, ": expected at least one axis");
  const int64_t width = x.size(-1);
  return {width > 0 ? x.count() / width : 0, width};
}

/// The dtype of acc_t.
inline Dtype accumulation_dtype(Dtype dtype) {
  return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
}

/// The entries of a row that a softmax sees: the first `count`. Loops run on to `padded`, whole
/// vectors, and choose: with causal rows of every length, exponentials in the rests that do not
/// fill a vector would take a third of the time.
struct RowPrefix {
  int32_t count;
  int64_t padded;
  /// Of rows with room for `n` entries.
  CBQ_HD RowPrefix(int64_t seen, int64_t n)
      : count(static_cast<int32_t>(seen)), padded(math::min<int64_t>(n, (seen + 15) / 16 * 16)) {}
  template <class A>
  CBQ_HD A choose(int64_t j, A seen, A unseen) const {
    return static_cast<int32_t>(j) < count ? seen : unseen;
  }
};

/// sum_j a_j b_j of two rows.
template <class Row, class T>
CBQ_HD acc_t<T> row_dot(Row& row, const T* a, const T* b, int64_t n) {
  using A = acc_t<T>;
  A s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t j = row.lane(); j < n; j += row.lanes()) s += A(a[j]) * A(b[j]);
  return row.sum(s);
}

}  // namespace cbq
