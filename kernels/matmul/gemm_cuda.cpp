// Matrix products on CUDA: cuBLASLt.
//
// A product is prepared once: descriptors, layouts and the library's choice of an algorithm are
// kept per thread and used again whenever shapes, strides, types and alignment are the same. So a
// step that was taken before creates nothing, allocates nothing and waits for nothing, and can be
// captured into a CUDA graph.
#ifdef CBQ_CUDA
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include "kernels/matmul/gemm.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/stream.h"

namespace cbq::kernels {
namespace {

constexpr int64_t workspace_bytes = 32 << 20;  // what cuBLAS itself takes on Hopper
// Texts of many lengths bring many shapes. A prepared product takes about a kilobyte of the host
// and a tenth of a millisecond; when the table is full it starts again.
constexpr size_t most_prepared = 4096;

// The numbers that tensor/runtime/device_error.cpp speaks of are the library's.
static_assert(CUBLAS_STATUS_ALLOC_FAILED == 3 && CUBLAS_STATUS_ARCH_MISMATCH == 8 &&
              CUBLAS_STATUS_MAPPING_ERROR == 11 && CUBLAS_STATUS_EXECUTION_FAILED == 13 &&
              CUBLAS_STATUS_INTERNAL_ERROR == 14);

void lt_check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  // An error of the device stays until the process ends, or until somebody asks for it, as here.
  const cudaError_t device = cudaGetLastError();
  const std::string advice = advice_on_cublas_error(status, static_cast<int>(device));
  throw CudaError(concat(
      call, ": ", cublasLtGetStatusString(status), device == cudaSuccess ? "" : "; ",
      device == cudaSuccess ? "" : cudaGetErrorString(device), advice.empty() ? "" : "; ", advice));
}

/// Frees a handle of the library by its own function.
template <auto destroy>
struct With {
  template <class T>
  void operator()(T* handle) const {
    destroy(handle);
  }
};
template <class Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, With<destroy>>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;
using Handle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;

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
      throw std::invalid_argument(message_of("gemm: no matrix product for ", dtype));
  }
}

/// Everything cuBLASLt's choice may depend on; two products of equal keys differ in addresses and
/// factors only.
using Key = std::array<int64_t, 17>;

/// The largest power of two, up to 256, that divides the addresses of all matrices of a batch: a
/// kernel that loads 16 bytes at once must not be chosen for heads that start in between.
uint32_t alignment_of(const StridedMatrix& x, Dtype dtype) {
  const auto stride = static_cast<uintptr_t>(x.stride * size_of(dtype));
  const uintptr_t bits = reinterpret_cast<uintptr_t>(x.data) | stride | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

Key key_of(const Product& p) {
  return {p.m,
          p.n,
          p.k,
          p.batch,
          static_cast<int64_t>(p.ta),
          static_cast<int64_t>(p.tb),
          static_cast<int64_t>(p.operand),
          static_cast<int64_t>(p.result),
          p.a.ld,
          p.b.ld,
          p.c.ld,
          p.a.stride,
          p.b.stride,
          p.c.stride,
          alignment_of(p.a, p.operand),
          alignment_of(p.b, p.operand),
          alignment_of(p.c, p.result)};
}

/// A product ready to be queued.
struct Prepared {
  Description description;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

/// A row-major matrix [rows, cols] is the column-major one of its transpose.
Layout layout_of(Dtype dtype, int64_t rows, int64_t cols, const StridedMatrix& x, int64_t batch) {
  cublasLtMatrixLayout_t made = nullptr;
  lt_check(cublasLtMatrixLayoutCreate(&made, cuda_type(dtype), static_cast<uint64_t>(cols),
                                      static_cast<uint64_t>(rows), x.ld),
           "cublasLtMatrixLayoutCreate");
  Layout layout(made);
  check(batch <= std::numeric_limits<int32_t>::max(), "gemm: batch of ", batch);
  const auto count = static_cast<int32_t>(batch);
  lt_check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                            sizeof count),
           "cublasLtMatrixLayoutSetAttribute");
  lt_check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                            &x.stride, sizeof x.stride),
           "cublasLtMatrixLayoutSetAttribute");
  return layout;
}

// c^T = op(b)^T op(a)^T: what cuBLASLt calls A is our b.
Description description_of(const Product& p) {
  const bool is_double = p.operand == Dtype::f64;
  cublasLtMatmulDesc_t made = nullptr;
  lt_check(cublasLtMatmulDescCreate(&made, is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                    is_double ? CUDA_R_64F : CUDA_R_32F),
           "cublasLtMatmulDescCreate");
  Description description(made);
  const cublasOperation_t ta = p.ta == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t tb = p.tb == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  lt_check(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb),
           "cublasLtMatmulDescSetAttribute");
  lt_check(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta),
           "cublasLtMatmulDescSetAttribute");
  return description;
}

Preference preference_of(const Product& p) {
  cublasLtMatmulPreference_t made = nullptr;
  lt_check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  Preference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    lt_check(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
  // Parts of a split sum are added in f32 and a fixed order, never rounded to the result's dtype
  // in between.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b, p.operand));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a, p.operand));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c, p.result));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c, p.result));
  return preference;
}

/// How many of the library's proposals are timed for a new product. With one, its first is taken,
/// and two runs take the same; timing may choose differently in every run, and so change last bits.
int candidates() {
  static const int count = std::stoi(environment_value("CBQ_GEMM_CANDIDATES"));
  return count;
}

bool is_capturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda_check(cudaStreamIsCapturing(current_stream(), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

/// cuBLASLt on one thread: its handle, its workspace, and the products that were asked for.
class Library {
 public:
  explicit Library(Device device) : workspace_(workspace_bytes, device) {
    cublasLtHandle_t made = nullptr;
    lt_check(cublasLtCreate(&made), "cublasLtCreate");
    handle_.reset(made);
  }

  void multiply(const Product& p) {
    const Key key = key_of(p);
    auto found = prepared_.find(key);
    if (found == prepared_.end()) {
      if (prepared_.size() >= most_prepared) prepared_.clear();
      found = prepared_.emplace(key, prepare(p)).first;
    }
    queue(p, found->second, found->second.algorithm, p.c.data);
  }

 private:
  Prepared prepare(const Product& p) {
    const bool ta = p.ta == Trans::yes, tb = p.tb == Trans::yes;
    Prepared ready{description_of(p),
                   layout_of(p.operand, ta ? p.k : p.m, ta ? p.m : p.k, p.a, p.batch),
                   layout_of(p.operand, tb ? p.n : p.k, tb ? p.k : p.n, p.b, p.batch),
                   layout_of(p.result, p.m, p.n, p.c, p.batch),
                   {}};
    std::array<cublasLtMatmulHeuristicResult_t, 16> proposals{};
    int found = 0;
    lt_check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), ready.description.get(), ready.b.get(),
                                            ready.a.get(), ready.c.get(), ready.c.get(),
                                            preference_of(p).get(), candidates(), proposals.data(),
                                            &found),
             "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0 || proposals[0].state != CUBLAS_STATUS_SUCCESS) {
      throw CudaError(concat("cublasLtMatmulAlgoGetHeuristic: nothing for ", p.m, " x ", p.k,
                             " times ", p.k, " x ", p.n, " in ", p.operand));
    }
    const int best = found > 1 && !is_capturing() ? fastest(p, ready, proposals.data(), found) : 0;
    ready.algorithm = proposals[static_cast<size_t>(best)].algo;
    return ready;
  }

  void queue(const Product& p, const Prepared& ready, const cublasLtMatmulAlgo_t& algorithm,
             void* c) {
    const auto alpha32 = static_cast<float>(p.alpha), beta32 = static_cast<float>(p.beta);
    const bool is_double = p.operand == Dtype::f64;
    const void* alpha = is_double ? static_cast<const void*>(&p.alpha) : &alpha32;
    const void* beta = is_double ? static_cast<const void*>(&p.beta) : &beta32;
    lt_check(cublasLtMatmul(handle_.get(), ready.description.get(), alpha, p.b.data, ready.b.get(),
                            p.a.data, ready.a.get(), beta, c, ready.c.get(), c, ready.c.get(),
                            &algorithm, workspace_.data(), workspace_bytes, current_stream()),
             "cublasLtMatmul");
  }

  /// Index of the proposal with the least time of a few products, into memory of its own: with
  /// beta, a product that is tried would change its result.
  int fastest(const Product& p, const Prepared& ready,
              const cublasLtMatmulHeuristicResult_t* proposals, int count) {
    const int64_t extent = (p.batch - 1) * p.c.stride + (p.m - 1) * p.c.ld + p.n;
    const Storage result(extent * size_of(p.result), workspace_.device());
    zero_bytes(result.data(), result.device(), result.bytes());
    const Event begin = new_event(), end = new_event();
    float least = std::numeric_limits<float>::infinity();
    int best = 0;
    for (int i = 0; i < count; ++i) {
      if (proposals[i].state != CUBLAS_STATUS_SUCCESS) continue;
      const cublasLtMatmulAlgo_t& algorithm = proposals[i].algo;
      queue(p, ready, algorithm, result.data());  // the first call loads the kernel
      cuda_check(cudaEventRecord(begin.get(), current_stream()), "cudaEventRecord");
      for (int repeat = 0; repeat < 3; ++repeat) queue(p, ready, algorithm, result.data());
      cuda_check(cudaEventRecord(end.get(), current_stream()), "cudaEventRecord");
      cuda_check(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
      float milliseconds = 0.0f;
      cuda_check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()),
                 "cudaEventElapsedTime");
      if (milliseconds < least) least = milliseconds, best = i;
    }
    return best;
  }

  static Event new_event() {
    cudaEvent_t made = nullptr;
    cuda_check(cudaEventCreate(&made), "cudaEventCreate");
    return Event(made);
  }

  Handle handle_;
  Storage workspace_;
  std::map<Key, Prepared> prepared_;
};

}  // namespace

void cuda_product(const Product& p, Device device) {
  // Streams are the thread's own (tensor/runtime/stream.h), so a workspace of the thread is used by
  // one product at a time.
  thread_local Library library(device);
  library.multiply(p);
}

}  // namespace cbq::kernels
#endif
