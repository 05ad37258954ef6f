// Hadamard transform of rows: butterflies inside each run of p elements, then a small dense matrix
// across the runs.
#include <type_traits>

#include "kernels/formulas/device_math.h"
#include "kernels/launch/check_device.h"
#include "kernels/launch/launch.h"
#include "kernels/ops.h"

namespace cbq::kernels {
namespace {

/// work = S x for every run of p elements, S Sylvester's matrix of order p. A stage with distance d
/// replaces (a, b) at (j, j + d) by (a + b, a - b); d = 1, 2, 4, ..., p / 2.
template <class T>
struct Butterflies {
  using A = acc_t<T>;
  const T* x;
  A* work;
  int64_t p;

  CBQ_HD static void turn(A& a, A& b) {
    const A sum = a + b, difference = a - b;
    a = sum;
    b = difference;
  }

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    A* v = work + r * p;
    for (int64_t j = row.lane(); j < p; j += row.lanes()) v[j] = A(x[r * p + j]);
    row.sync();
    for (int64_t d = 1; d < p; d *= 2) {
      if constexpr (std::is_same_v<Row, SerialRow>) {
        for (int64_t begin = 0; begin < p; begin += 2 * d) {
#pragma omp simd
          for (int64_t j = begin; j < begin + d; ++j) turn(v[j], v[j + d]);
        }
      } else {
        for (int64_t i = row.lane(); i < p / 2; i += row.lanes()) {
          const int64_t j = i / d * 2 * d + i % d;
          turn(v[j], v[j + d]);
        }
        row.sync();
      }
    }
  }
};

/// y_{a p + j} = scale sum_c h(a, c) work_{c p + j} for one row of m p elements; `columns` holds
/// h(a, c) at c m + a.
template <class T>
struct MixRuns {
  using A = acc_t<T>;
  const A* work;
  const float* columns;
  T* y;
  int64_t m, p;
  A scale;

  static constexpr int64_t width = 64;  // sums that stay in registers

  /// Neighbours in a run are summed at once.
  CBQ_HD void mix_long_runs(const A* in, T* out) const {
    for (int64_t a = 0; a < m; ++a) {
      for (int64_t begin = 0; begin < p; begin += width) {
        const int64_t n = p - begin < width ? p - begin : width;
        A sum[width] = {};
        for (int64_t c = 0; c < m; ++c) {
          const A factor = A(columns[c * m + a]);
          const A* from = in + c * p + begin;
#pragma omp simd
          for (int64_t j = 0; j < n; ++j) sum[j] += factor * from[j];
        }
#pragma omp simd
        for (int64_t j = 0; j < n; ++j)
          out[a * p + begin + j] = device_math::round_to<T>(scale * sum[j]);
      }
    }
  }
  /// Runs are too short for that: elements at the same place of neighbouring runs are summed at
  /// once. Every sum has the same order as above.
  CBQ_HD void mix_short_runs(const A* in, T* out) const {
    for (int64_t j = 0; j < p; ++j) {
      for (int64_t begin = 0; begin < m; begin += width) {
        const int64_t n = m - begin < width ? m - begin : width;
        A sum[width] = {};
        for (int64_t c = 0; c < m; ++c) {
          const A factor = in[c * p + j];
          const float* from = columns + c * m + begin;
#pragma omp simd
          for (int64_t a = 0; a < n; ++a) sum[a] += A(from[a]) * factor;
        }
        for (int64_t a = 0; a < n; ++a)
          out[(begin + a) * p + j] = device_math::round_to<T>(scale * sum[a]);
      }
    }
  }

  template <class Row>
  CBQ_HD void operator()(Row& row, int64_t r) const {
    const A* in = work + r * m * p;
    T* out = y + r * m * p;
    if constexpr (std::is_same_v<Row, SerialRow>) {
      if (p >= 16) {
        mix_long_runs(in, out);
      } else {
        mix_short_runs(in, out);
      }
    } else {
      for (int64_t i = row.lane(); i < m * p; i += row.lanes()) {
        const int64_t a = i / p, j = i % p;
        A sum = 0;
        for (int64_t c = 0; c < m; ++c) sum += A(columns[c * m + a]) * in[c * p + j];
        out[i] = device_math::round_to<T>(scale * sum);
      }
    }
  }
};

}  // namespace

Tensor hadamard(const Tensor& x, const Tensor& matrix, bool transposed) {
  check(matrix.rank() == 2 && matrix.size(0) == matrix.size(1) && matrix.size(0) >= 1 &&
            matrix.dtype() == Dtype::f32,
        "hadamard: the matrix is ", matrix.dtype(), matrix.shape(),
        "; expected a square one of f32");
  check_device("hadamard", "the matrix", matrix, x.device());
  const int64_t m = matrix.size(0);
  check(x.rank() >= 1 && x.size(-1) >= 1 && x.size(-1) % m == 0, "hadamard: rows of ", x.shape(),
        " are no multiple of the matrix's order ", m);
  const int64_t n = x.size(-1), p = n / m;
  check((p & (p - 1)) == 0, "hadamard: rows of ", x.shape(), " are ", p,
        " times the matrix's order ", m, "; expected a power of two");
  const Tensor columns = transposed ? matrix : transpose(matrix);
  Tensor y(x.shape(), x.dtype(), x.device());
  dispatch_float(x.dtype(), "hadamard", [&]<class T>() {
    using A = acc_t<T>;
    const Tensor work(x.shape(), dtype_of<A>::value, x.device());
    map_rows("hadamard", x.device(), x.count() / p, p,
             Butterflies<T>{x.data<T>(), work.template data<A>(), p});
    const A scale = A(1) / std::sqrt(static_cast<A>(n));
    map_rows("hadamard", x.device(), x.count() / n, n,
             MixRuns<T>{work.template data<A>(), columns.template data<float>(), y.data<T>(), m, p,
                        scale});
  });
  return y;
}

}  // namespace cbq::kernels
