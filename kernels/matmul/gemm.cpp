// Matrix products: on the CPU here, f32 by f32_product.h, f64 and what that does not take by
// OpenBLAS (kernels/matmul/blas.h); on CUDA cuBLASLt in gemm_cuda.cpp. No other file calls them,
// but for varlen_attention.cpp, whose many small products lie inside wider matrices.
#include "kernels/matmul/gemm.h"

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/matmul/blas.h"
#include "kernels/matmul/f32_product.h"
#include "tensor/runtime/cpu_recording.h"
#include "tensor/runtime/device_profile.h"

namespace cbq::kernels {
namespace {

// Left alone, OpenBLAS divides a product by the number of threads, and the last bits with it. So
// the division is ours and depends on the shape only: the result is cut into panels of rows or
// columns, a panel is one call, and inside a parallel region OpenBLAS (OpenMP build) runs serially.
// Below `serial_product` multiplications it runs serially anyway (its own limit is twice this).
constexpr int64_t serial_product = 131072;
// Each panel packs the other matrix again, which costs some 8 % at 1024^3; in exchange, products of
// a small model run up to 1.5 times as fast on two threads as by OpenBLAS's own division.
constexpr int64_t panel_extent = 256;
constexpr int64_t most_panels = 64;

// Tall results are cut into tiles instead: by columns alone, all rows would be packed again for
// every 256 columns, and 768 columns make three panels, of which two threads cannot take equal
// shares. On one thread, products of 2048 rows reach 92 to 98 % of OpenBLAS's own speed in tiles,
// 85 to 95 % in panels of 256 columns (768 x 768, 3072 x 768 and 768 x 3072).
constexpr int64_t tile_rows = 512, tile_columns = 1024;

struct Panels {
  int64_t rows, columns;  // extents of a panel
  int64_t across, count;  // panels side by side; panels of one product
};

// `extent` in `count` parts. Multiples of 16 keep the vector registers of OpenBLAS's inner loops
// full.
int64_t part_of(int64_t extent, int64_t count) {
  const int64_t ceiling = (extent + count - 1) / count;
  return std::min(extent, count > 1 && extent > 32 ? (ceiling + 15) / 16 * 16 : ceiling);
}

Panels panels_of(const Product& p) {
  int64_t down = 1, across = 1;
  const bool by_rows = p.n < panel_extent && p.m >= p.n;  // columns cost less than rows
  const int64_t extent = by_rows ? p.m : p.n;
  if (p.m * p.n * p.k <= serial_product || extent < 2) {
    // one panel
  } else if (p.m >= 2 * tile_rows && p.n >= 2 * panel_extent) {
    // An even number: two threads are the most common kind of few.
    down = std::min((p.m + tile_rows) / (2 * tile_rows) * 2, most_panels / 2);
    across = std::clamp<int64_t>(p.n / tile_columns, 1, most_panels / 2);
  } else {
    (by_rows ? down : across) = std::clamp<int64_t>(extent / panel_extent, 2, most_panels);
  }
  const int64_t rows = part_of(p.m, down), columns = part_of(p.n, across);
  across = (p.n + columns - 1) / columns;
  return {rows, columns, across, (p.m + rows - 1) / rows * across};
}

/// For f32_product(), whose bytes do not depend on the division: one panel for one thread, else two
/// for each, so that a thread that other programs hold up does not hold up the rest. Of the
/// divisions the one that copies least: each panel copies its rows of a and its columns of b.
Panels panels_for(const Product& p, int64_t threads) {
  constexpr int64_t rows_apart = 16, worth_a_panel = int64_t{1} << 20;
  const int64_t most =
      std::min<int64_t>(threads > 1 ? 2 * threads : 1, p.m * p.n * p.k / worth_a_panel + 1);
  const auto extent = [](int64_t whole, int64_t count, int64_t unit) {
    return ((whole + count - 1) / count + unit - 1) / unit * unit;
  };
  Panels best{p.m, p.n, 1, 1};
  int64_t least = 0;
  for (int64_t down = 1; down <= most; ++down) {
    const int64_t rows = extent(p.m, down, rows_apart);
    const int64_t columns = extent(p.n, most / down, f32_product_columns);
    const int64_t across = (p.n + columns - 1) / columns, below = (p.m + rows - 1) / rows;
    const int64_t copied = across * p.m + below * p.n;
    if (across * below < best.count || (across * below == best.count && copied >= least)) continue;
    best = {rows, columns, across, across * below};
    least = copied;
  }
  return best;
}

template <class T>
void cpu_panel(const Product& p, const Panels& panels, bool ours, const T* a, const T* b, T* c,
               int64_t at) {
  const int64_t row = at / panels.across * panels.rows;
  const int64_t column = at % panels.across * panels.columns;
  a += row * (p.ta == Trans::yes ? 1 : p.a.ld);
  b += column * (p.tb == Trans::yes ? p.b.ld : 1);
  c += row * p.c.ld + column;
  const int64_t rows = std::min(panels.rows, p.m - row);
  const int64_t columns = std::min(panels.columns, p.n - column);
  const bool ta = p.ta == Trans::yes, tb = p.tb == Trans::yes;
  if constexpr (std::is_same_v<T, float>) {
    if (ours) {
      const auto alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
      return f32_product(
          {ta, tb, rows, columns, p.k, alpha, a, p.a.ld, b, p.b.ld, beta, c, p.c.ld});
    }
  }
  blas::gemm(ta, tb, rows, columns, p.k, p.alpha, a, p.a.ld, b, p.b.ld, p.beta, c, p.c.ld);
}

template <class T>
void cpu_product(const Product& p) {
  const auto* a = static_cast<const T*>(p.a.data);
  const auto* b = static_cast<const T*>(p.b.data);
  auto* c = static_cast<T*>(p.c.data);
  const bool ours =
      std::is_same_v<T, float> && f32_product_takes(p.m, p.n, p.k, p.tb == Trans::yes);
  if (!ours) blas::load();
  const Panels panels =
      ours ? panels_for(p, p.batch > 1 ? 1 : omp_get_max_threads()) : panels_of(p);
  const int64_t calls = p.batch * panels.count;
#pragma omp parallel for schedule(dynamic) if (calls > 1 && \
                                               p.batch * p.m * p.n * p.k > serial_product)
  for (int64_t call = 0; call < calls; ++call) {
    const int64_t i = call / panels.count;
    cpu_panel(p, panels, ours, a + i * p.a.stride, b + i * p.b.stride, c + i * p.c.stride,
              call % panels.count);
  }
}

constexpr int64_t half_threshold = 16384;  // numbers to convert, from where on threads pay

/// The matrices of a batch in f32, one behind the other.
template <class T>
std::vector<float> unpacked(const StridedMatrix& x, int64_t batch, int64_t rows, int64_t cols) {
  std::vector<float> y(static_cast<size_t>(batch * rows * cols));
  const T* from = static_cast<const T*>(x.data);
#pragma omp parallel for schedule(static) if (batch * rows * cols >= half_threshold)
  for (int64_t r = 0; r < batch * rows; ++r) {
    const T* in = from + r / rows * x.stride + r % rows * x.ld;
    for (int64_t j = 0; j < cols; ++j) y[static_cast<size_t>(r * cols + j)] = float(in[j]);
  }
  return y;
}

// Half types: multiply in f32, round once at the end, as a tensor core does.
template <class T>
void cpu_half_product(Product p) {
  const bool ta = p.ta == Trans::yes, tb = p.tb == Trans::yes;
  std::vector<float> a = unpacked<T>(p.a, p.batch, ta ? p.k : p.m, ta ? p.m : p.k);
  std::vector<float> b = unpacked<T>(p.b, p.batch, tb ? p.n : p.k, tb ? p.k : p.n);
  p.a = {a.data(), ta ? p.m : p.k, p.m * p.k};
  p.b = {b.data(), tb ? p.k : p.n, p.k * p.n};
  p.operand = Dtype::f32;
  if (p.result == Dtype::f32) return cpu_product<float>(p);
  const StridedMatrix result = p.c;
  std::vector<float> c = p.beta == 0.0
                             ? std::vector<float>(static_cast<size_t>(p.batch * p.m * p.n))
                             : unpacked<T>(result, p.batch, p.m, p.n);
  p.c = {c.data(), p.n, p.m * p.n};
  cpu_product<float>(p);
  T* to = static_cast<T*>(result.data);
#pragma omp parallel for schedule(static) if (p.batch * p.m * p.n >= half_threshold)
  for (int64_t r = 0; r < p.batch * p.m; ++r) {
    T* out = to + r / p.m * result.stride + r % p.m * result.ld;
    for (int64_t j = 0; j < p.n; ++j) out[j] = T(c[static_cast<size_t>(r * p.n + j)]);
  }
}

void cpu_run(const char* op, const Product& p) {
  switch (p.operand) {
    case Dtype::f64:
      return cpu_product<double>(p);
    case Dtype::f32:
      return cpu_product<float>(p);
    case Dtype::bf16:
      return cpu_half_product<bf16>(p);
    case Dtype::f16:
      return cpu_half_product<f16>(p);
    default:
      check(false, op, ": no matrix product for ", p.operand);
  }
}

void run(const char* op, const Product& p, Device device) {
  const OpTimer timer(op, device);
#ifdef CBQ_CUDA
  if (device.is_cuda()) {
    cuda_product(p, device);
    return;
  }
#endif
  run_or_record([=] { cpu_run(op, p); });
}

/// The product of whole matrices.
Product product_of(const char* op, const Tensor& a, Trans ta, const Tensor& b, Trans tb) {
  const int64_t m = a.size(ta == Trans::yes ? 1 : 0), k = a.size(ta == Trans::yes ? 0 : 1);
  const int64_t k2 = b.size(tb == Trans::yes ? 1 : 0), n = b.size(tb == Trans::yes ? 0 : 1);
  check(k == k2, op, ": ", a.shape(), ta == Trans::yes ? "^T" : "", " and ", b.shape(),
        tb == Trans::yes ? "^T" : "", " do not multiply");
  return {.m = m,
          .n = n,
          .k = k,
          .batch = 1,
          .ta = ta,
          .tb = tb,
          .alpha = 1.0,
          .beta = 0.0,
          .operand = a.dtype(),
          .result = a.dtype(),
          .a = {a.raw(), a.size(-1), m * k},
          .b = {b.raw(), b.size(-1), k * n},
          .c = {}};
}

void run(const char* op, Product p, const Tensor& a, const Tensor& b, const Tensor& c) {
  check(a.dtype() == b.dtype() && a.dtype() == c.dtype(), op, ": dtypes differ: ", a.dtype(), ", ",
        b.dtype(), ", ", c.dtype());
  check(a.device() == b.device() && a.device() == c.device(), op, ": devices differ");
  if (c.count() == 0) return;
  if (p.k == 0) {
    if (p.beta == 0.0) {
      c.fill_zero();
    } else {
      c.copy_from(scale(c, p.beta));
    }
    return;
  }
  p.c = {c.raw(), p.n, p.m * p.n};
  run(op, p, a.device());
}

/// Throws unless all elements of the batch lie in the tensor, and, for a result, no two of its
/// matrices share one: they follow each other, or their rows lie side by side.
void check_matrices(const char* which, const Matrices& x, int64_t batch, bool result) {
  const int64_t extent = (x.rows - 1) * x.row_stride + x.cols;
  const int64_t end = x.offset + (batch - 1) * x.stride + extent;
  const bool inside = x.rows > 0 && x.cols > 0 && x.offset >= 0 && x.stride >= 0 &&
                      x.row_stride >= x.cols && end <= x.tensor.count();
  const bool apart =
      x.stride >= extent || (x.stride >= x.cols && (batch - 1) * x.stride + x.cols <= x.row_stride);
  check(inside && (!result || batch == 1 || apart), "gemm_strided: ", which, " of ", x.rows, " x ",
        x.cols, " every ", x.stride, " elements from ", x.offset, ", rows ", x.row_stride,
        " apart, ", batch, " of them, ", inside ? "overlap" : "do not lie", " in ",
        x.tensor.count(), " elements");
}

}  // namespace

void gemm(const Tensor& a, Trans ta, const Tensor& b, Trans tb, const Tensor& c, double alpha,
          double beta) {
  check(a.rank() == 2 && b.rank() == 2 && c.rank() == 2, "gemm: expected matrices, got ", a.shape(),
        ", ", b.shape(), ", ", c.shape());
  Product p = product_of("gemm", a, ta, b, tb);
  check_shape("gemm", "result", c, {p.m, p.n});
  p.alpha = alpha;
  p.beta = beta;
  run("gemm", p, a, b, c);
}

Tensor matmul(const Tensor& a, Trans ta, const Tensor& b, Trans tb) {
  check(a.rank() == 2 && b.rank() == 2, "matmul: expected matrices, got ", a.shape(), " and ",
        b.shape());
  const Product p = product_of("matmul", a, ta, b, tb);
  Tensor c({p.m, p.n}, a.dtype(), a.device());
  run("matmul", p, a, b, c);
  return c;
}

void gemm_strided(const Matrices& a, Trans ta, const Matrices& b, Trans tb, const Matrices& c,
                  int64_t batch, double alpha, double beta) {
  const bool at = ta == Trans::yes, bt = tb == Trans::yes;
  const int64_t m = c.rows, n = c.cols, k = at ? a.rows : a.cols;
  check((at ? a.cols : a.rows) == m && (bt ? b.cols : b.rows) == k && (bt ? b.rows : b.cols) == n,
        "gemm_strided: ", a.rows, " x ", a.cols, at ? " transposed" : "", " times ", b.rows, " x ",
        b.cols, bt ? " transposed" : "", " is not ", m, " x ", n);
  const Dtype operand = a.tensor.dtype(), result = c.tensor.dtype();
  const bool wider = result == Dtype::f32 && (operand == Dtype::bf16 || operand == Dtype::f16);
  check(b.tensor.dtype() == operand && (result == operand || wider), "gemm_strided: ", operand,
        " times ", b.tensor.dtype(), " into ", result);
  check(a.tensor.device() == b.tensor.device() && a.tensor.device() == c.tensor.device(),
        "gemm_strided: devices differ");
  check(batch > 0, "gemm_strided: batch of ", batch);
  check_matrices("a", a, batch, false);
  check_matrices("b", b, batch, false);
  check_matrices("c", c, batch, true);
  const auto at_offset = [](const Matrices& x) -> StridedMatrix {
    auto* bytes = static_cast<char*>(x.tensor.raw());
    return {bytes + x.offset * size_of(x.tensor.dtype()), x.row_stride, x.stride};
  };
  run("gemm_strided",
      {.m = m,
       .n = n,
       .k = k,
       .batch = batch,
       .ta = ta,
       .tb = tb,
       .alpha = alpha,
       .beta = beta,
       .operand = operand,
       .result = result,
       .a = at_offset(a),
       .b = at_offset(b),
       .c = at_offset(c)},
      a.tensor.device());
}

}  // namespace cbq::kernels
