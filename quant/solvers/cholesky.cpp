#include "quant/solvers/cholesky.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"

namespace cbq {
namespace {

using kernels::Matrices;
using kernels::Trans;

/// Columns that are factored together; everything else is matrix products of this width.
constexpr int64_t block = 64;

/// The part [rows, cols] of the square matrix t whose first element is (row, col).
Matrices part(const Tensor& t, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  const int64_t n = t.size(1);
  return {t, row * n + col, 0, n, rows, cols};
}

/// A with the order of both rows and columns reversed: J A J.
Tensor reversed(const Tensor& a) {
  const int64_t n = a.size(0);
  Tensor r({n, n}, Dtype::f64);
  std::reverse_copy(a.data<double>(), a.data<double>() + n * n, r.data<double>());
  return r;
}

/// Cholesky factor of the [width, width] block at `first` on the diagonal, in place.
bool factor_diagonal(double* l, int64_t n, int64_t first, int64_t width) {
  for (int64_t j = first; j < first + width; ++j) {
    double d = l[j * n + j];
    for (int64_t k = first; k < j; ++k) d -= l[j * n + k] * l[j * n + k];
    if (!(d > 0.0) || !std::isfinite(d)) return false;
    l[j * n + j] = std::sqrt(d);
    for (int64_t i = j + 1; i < first + width; ++i) {
      double v = l[i * n + j];
      for (int64_t k = first; k < j; ++k) v -= l[i * n + k] * l[j * n + k];
      l[i * n + j] = v / l[j * n + j];
    }
  }
  return true;
}

}  // namespace

std::optional<Tensor> cholesky(const Tensor& a) {
  check(a.rank() == 2 && a.size(0) == a.size(1) && a.dtype() == Dtype::f64 &&
            a.device() == Device::cpu(),
        "cholesky: expected a square f64 matrix on the host, got ", to_string(a.shape()));
  const int64_t n = a.size(0);
  const Tensor result = a.clone();
  double* l = result.data<double>();
  for (int64_t first = 0; first < n; first += block) {
    const int64_t width = std::min(block, n - first), last = first + width;
    // Column block minus what the finished columns explain: A[first:, block] - L[first:, :first]
    // L[block, :first]^T.
    if (first > 0) {
      kernels::gemm_strided(part(result, first, 0, n - first, first), Trans::no,
                            part(result, first, 0, width, first), Trans::yes,
                            part(result, first, first, n - first, width), 1, -1.0, 1.0);
    }
    if (!factor_diagonal(l, n, first, width)) return std::nullopt;
#pragma omp parallel for schedule(static) if (n - last > 2 * block)
    for (int64_t i = last; i < n; ++i) {
      for (int64_t j = first; j < last; ++j) {
        double v = l[i * n + j];
        for (int64_t k = first; k < j; ++k) v -= l[i * n + k] * l[j * n + k];
        l[i * n + j] = v / l[j * n + j];
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) std::fill(l + i * n + i + 1, l + (i + 1) * n, 0.0);
  return result;
}

Tensor inverse_of_lower(const Tensor& lower) {
  const int64_t n = lower.size(0);
  const Tensor result = Tensor::zeros({n, n}, Dtype::f64);
  const double* l = lower.data<double>();
  double* m = result.data<double>();
  for (int64_t first = 0; first < n; first += block) {
    const int64_t width = std::min(block, n - first), last = first + width;
    // Rows of the block: L_bb M_b = I_b - L[block, :first] M[:first, :].
    if (first > 0) {
      kernels::gemm_strided(part(lower, first, 0, width, first), Trans::no,
                            part(result, 0, 0, first, first), Trans::no,
                            part(result, first, 0, width, first), 1, -1.0, 0.0);
    }
    for (int64_t i = first; i < last; ++i) {
      m[i * n + i] = 1.0;
      for (int64_t k = first; k < i; ++k) {
        const double factor = l[i * n + k];
        const int64_t end = k + 1;
        for (int64_t c = 0; c < end; ++c) m[i * n + c] -= factor * m[k * n + c];
      }
      for (int64_t c = 0; c <= i; ++c) m[i * n + c] /= l[i * n + i];
    }
  }
  return result;
}

// With J the reversal, J A J = L L^T gives A = R R^T for the upper triangular R = J L J, hence
// A^-1 = R^-T R^-1 = U^T U with U = R^-1 = J L^-1 J.
std::optional<Tensor> upper_factor_of_inverse(const Tensor& a) {
  const std::optional<Tensor> l = cholesky(reversed(a));
  if (!l) return std::nullopt;
  return reversed(inverse_of_lower(*l));
}

}  // namespace cbq
