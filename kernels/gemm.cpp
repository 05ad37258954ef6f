// Matrix products: OpenBLAS on the CPU, cuBLASLt on CUDA. The only file that calls either.
#include <cblas.h>

#include <algorithm>

#include "kernels/ops.h"
#include "tensor/device_profile.h"
#include "tensor/stream.h"

#ifdef CBQ_CUDA
#include <cublasLt.h>
#endif

namespace cbq::kernels {
namespace {

/// One product c = alpha op(a) op(b) + beta c of row-major matrices, `batch` times.
struct Product {
  int64_t m, n, k, batch;
  Trans ta, tb;
  double alpha, beta;
};

Product product_of(const char* op, const Shape& a, Trans ta, const Shape& b, Trans tb,
                   const Shape* c) {
  const size_t skip = a.size() - 2;  // 0, or 1 for batched
  const int64_t m = a[skip + (ta == Trans::yes)], k = a[skip + (ta == Trans::no)];
  const int64_t k2 = b[skip + (tb == Trans::yes)], n = b[skip + (tb == Trans::no)];
  const int64_t batch = skip == 1 ? a[0] : 1;
  const bool fits = k == k2 && (skip == 0 || a[0] == b[0]);
  check(fits, op, ": ", to_string(a), ta == Trans::yes ? "^T" : "", " and ", to_string(b),
        tb == Trans::yes ? "^T" : "", " do not multiply");
  if (c != nullptr) {
    const Shape expected = skip == 1 ? Shape{batch, m, n} : Shape{m, n};
    check(*c == expected, op, ": result is ", to_string(*c), ", expected ", to_string(expected));
  }
  return {m, n, k, batch, ta, tb, 1.0, 0.0};
}

// Left alone, OpenBLAS divides a product by the number of threads, and the last bits with it. So
// the division is ours and depends on the shape only: the result is cut into panels of rows or
// columns, a panel is one call, and inside a parallel region OpenBLAS (OpenMP build) runs serially.
// Below `serial_product` multiplications it runs serially anyway (its own limit is twice this).
constexpr int64_t serial_product = 131072;
// Each panel packs the other matrix again, which costs some 8 % at 1024^3; in exchange, products of
// a small model run up to 1.5 times as fast on two threads as by OpenBLAS's own division.
constexpr int64_t panel_extent = 256;
constexpr int64_t most_panels = 64;

struct Panels {
  bool by_rows;
  int64_t extent, count;  // rows or columns of a panel; panels of one product
};

Panels panels_of(const Product& p) {
  const bool by_rows = p.n < panel_extent && p.m >= p.n;  // columns cost less than rows
  const int64_t extent = by_rows ? p.m : p.n;
  if (p.m * p.n * p.k <= serial_product || extent < 2) return {by_rows, extent, 1};
  const int64_t count = std::clamp<int64_t>(extent / panel_extent, 2, most_panels);
  // Multiples of 16 keep the vector registers of OpenBLAS's inner loops full.
  const int64_t ceiling = (extent + count - 1) / count;
  const int64_t size = std::min(extent, extent > 32 ? (ceiling + 15) / 16 * 16 : ceiling);
  return {by_rows, size, (extent + size - 1) / size};
}

template <class T>
void cpu_panel(const Product& p, const Panels& panels, const T* a, const T* b, T* c, int64_t at) {
  const CBLAS_TRANSPOSE ta = p.ta == Trans::yes ? CblasTrans : CblasNoTrans;
  const CBLAS_TRANSPOSE tb = p.tb == Trans::yes ? CblasTrans : CblasNoTrans;
  const int64_t begin = at * panels.extent;
  const int64_t size = std::min(panels.extent, (panels.by_rows ? p.m : p.n) - begin);
  if (panels.by_rows) {
    a += begin * (p.ta == Trans::yes ? 1 : p.k);
    c += begin * p.n;
  } else {
    b += begin * (p.tb == Trans::yes ? p.k : 1);
    c += begin;
  }
  const auto m = static_cast<int>(panels.by_rows ? size : p.m);
  const auto n = static_cast<int>(panels.by_rows ? p.n : size), k = static_cast<int>(p.k);
  const auto lda = static_cast<int>(p.ta == Trans::yes ? p.m : p.k);
  const auto ldb = static_cast<int>(p.tb == Trans::yes ? p.k : p.n), ldc = static_cast<int>(p.n);
  if constexpr (std::is_same_v<T, double>) {
    cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, p.alpha, a, lda, b, ldb, p.beta, c, ldc);
  } else {
    cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, static_cast<float>(p.alpha), a, lda, b, ldb,
                static_cast<float>(p.beta), c, ldc);
  }
}

template <class T>
void cpu_product(const Product& p, const T* a, const T* b, T* c) {
  const Panels panels = panels_of(p);
  const int64_t calls = p.batch * panels.count;
#pragma omp parallel for schedule(dynamic) if (calls > 1 && \
                                               p.batch * p.m * p.n * p.k > serial_product)
  for (int64_t call = 0; call < calls; ++call) {
    const int64_t i = call / panels.count;
    cpu_panel(p, panels, a + i * p.m * p.k, b + i * p.k * p.n, c + i * p.m * p.n,
              call % panels.count);
  }
}

#ifdef CBQ_CUDA
void lt_check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw CudaError(concat(call, ": ", cublasLtGetStatusString(status)));
  }
}

cudaDataType_t cuda_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return CUDA_R_64F;
    case Dtype::f32:
      return CUDA_R_32F;
    case Dtype::bf16:
      return CUDA_R_16BF;
    case Dtype::f16:
      return CUDA_R_16F;
    default:
      throw std::invalid_argument(concat("gemm: no matrix product for ", name_of(dtype)));
  }
}

cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t batch) {
  cublasLtMatrixLayout_t l = nullptr;
  lt_check(cublasLtMatrixLayoutCreate(&l, type, static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(cols), rows),
           "cublasLtMatrixLayoutCreate");
  const auto count = static_cast<int32_t>(batch);
  const int64_t stride = rows * cols;
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                   sizeof stride);
  return l;
}

// cuBLASLt is column-major: c^T = op(b)^T op(a)^T, and a row-major matrix is its own transpose.
void cuda_product(const Product& p, const Tensor& a, const Tensor& b, const Tensor& c) {
  thread_local cublasLtHandle_t handle = [] {
    cublasLtHandle_t h = nullptr;
    lt_check(cublasLtCreate(&h), "cublasLtCreate");
    return h;
  }();
  constexpr int64_t workspace_bytes = 32 << 20;  // what cuBLAS itself takes on Hopper
  thread_local Storage workspace(workspace_bytes, a.device());
  const cudaDataType_t type = cuda_type(a.dtype());
  const bool is_double = type == CUDA_R_64F;
  cublasLtMatmulDesc_t desc = nullptr;
  lt_check(cublasLtMatmulDescCreate(&desc, is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                    is_double ? CUDA_R_64F : CUDA_R_32F),
           "cublasLtMatmulDescCreate");
  const cublasOperation_t ta = p.ta == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t tb = p.tb == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb);
  cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta);
  const auto lb =
      p.tb == Trans::yes ? layout(type, p.k, p.n, p.batch) : layout(type, p.n, p.k, p.batch);
  const auto la =
      p.ta == Trans::yes ? layout(type, p.m, p.k, p.batch) : layout(type, p.k, p.m, p.batch);
  const auto lc = layout(type, p.n, p.m, p.batch);
  const auto alpha32 = static_cast<float>(p.alpha), beta32 = static_cast<float>(p.beta);
  const void* alpha = is_double ? static_cast<const void*>(&p.alpha) : &alpha32;
  const void* beta = is_double ? static_cast<const void*>(&p.beta) : &beta32;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulPreferenceCreate(&preference);
  const auto limit = static_cast<uint64_t>(workspace_bytes);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                       sizeof limit);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  lt_check(
      cublasLtMatmulAlgoGetHeuristic(handle, desc, lb, la, lc, lc, preference, 1, &best, &found),
      "cublasLtMatmulAlgoGetHeuristic");
  lt_check(cublasLtMatmul(handle, desc, alpha, b.raw(), lb, a.raw(), la, beta, c.raw(), lc, c.raw(),
                          lc, &best.algo, workspace.data(), workspace_bytes, current_stream()),
           "cublasLtMatmul");
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(la);
  cublasLtMatrixLayoutDestroy(lb);
  cublasLtMatrixLayoutDestroy(lc);
  cublasLtMatmulDescDestroy(desc);
}
#endif

void run(const char* op, const Product& p, const Tensor& a, const Tensor& b, const Tensor& c) {
  check(a.dtype() == b.dtype() && a.dtype() == c.dtype(), op,
        ": dtypes differ: ", name_of(a.dtype()), ", ", name_of(b.dtype()), ", ",
        name_of(c.dtype()));
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
  const OpTimer timer(op, a.device());
#ifdef CBQ_CUDA
  if (a.device().is_cuda()) {
    cuda_product(p, a, b, c);
    return;
  }
#endif
  if (a.dtype() == Dtype::f64) {
    cpu_product(p, a.data<double>(), b.data<double>(), c.data<double>());
  } else if (a.dtype() == Dtype::f32) {
    cpu_product(p, a.data<float>(), b.data<float>(), c.data<float>());
  } else {  // half types: multiply in f32, round once at the end, as a tensor core does
    const Tensor c32 = cast(c, Dtype::f32);
    cpu_product(p, cast(a, Dtype::f32).data<float>(), cast(b, Dtype::f32).data<float>(),
                c32.data<float>());
    c.copy_from(cast(c32, c.dtype()));
  }
}

}  // namespace

void gemm(const Tensor& a, Trans ta, const Tensor& b, Trans tb, const Tensor& c, double alpha,
          double beta) {
  check(a.rank() == 2 && b.rank() == 2 && c.rank() == 2, "gemm: expected matrices, got ",
        to_string(a.shape()), ", ", to_string(b.shape()), ", ", to_string(c.shape()));
  Product p = product_of("gemm", a.shape(), ta, b.shape(), tb, &c.shape());
  p.alpha = alpha;
  p.beta = beta;
  run("gemm", p, a, b, c);
}

Tensor matmul(const Tensor& a, Trans ta, const Tensor& b, Trans tb) {
  check(a.rank() == 2 && b.rank() == 2, "matmul: expected matrices, got ", to_string(a.shape()),
        " and ", to_string(b.shape()));
  const Product p = product_of("matmul", a.shape(), ta, b.shape(), tb, nullptr);
  Tensor c({p.m, p.n}, a.dtype(), a.device());
  run("matmul", p, a, b, c);
  return c;
}

Tensor matmul_batched(const Tensor& a, Trans ta, const Tensor& b, Trans tb, double alpha) {
  check(a.rank() == 3 && b.rank() == 3, "matmul_batched: expected three axes, got ",
        to_string(a.shape()), " and ", to_string(b.shape()));
  Product p = product_of("matmul_batched", a.shape(), ta, b.shape(), tb, nullptr);
  p.alpha = alpha;
  Tensor c({p.batch, p.m, p.n}, a.dtype(), a.device());
  run("matmul_batched", p, a, b, c);
  return c;
}

}  // namespace cbq::kernels
