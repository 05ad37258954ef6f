// The only place that knows how a functor becomes a loop (CPU) or a grid (CUDA).
//
//   map(device, n, f)            calls f(i) for every i in [0, n)
//   map_rows(device, rows, f)    calls f(row, r) for every r in [0, rows)
//
// Functors are small named structs with a `CBQ_HD void operator()`. In map_rows the workers of one
// row share it: worker `row.lane()` of `row.lanes()` takes the elements lane, lane + lanes, ...,
// and row.sum(x) / row.max(x) combine one value per worker and give the result to all. On the CPU a
// row has one worker, so the functor *is* the textbook loop; on CUDA a thread block shares the row,
// and the combination runs in a fixed order (warp shuffles, no float atomics), so results repeat.
//
// Files that call these are named .cu: nvcc compiles them for both devices, and without CUDA the
// host compiler takes them as plain C++.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/error.h"
#include "tensor/runtime/cpu_recording.h"
#include "tensor/runtime/device.h"
#include "tensor/runtime/device_profile.h"
#include "tensor/runtime/stream.h"

namespace cbq {

namespace detail {
// Below this many elements a parallel region costs more than it saves.
constexpr int64_t parallel_threshold = 16384;
}  // namespace detail

/// A row on the CPU: one worker.
struct SerialRow {
  CBQ_HD static constexpr int64_t lane() { return 0; }
  CBQ_HD static constexpr int64_t lanes() { return 1; }
  template <class A>
  CBQ_HD static A sum(A x) {
    return x;
  }
  template <class A>
  CBQ_HD static A max(A x) {
    return x;
  }
  CBQ_HD static void sync() {}
};

// Kernels exist where nvcc compiles, and where the tests run them without a GPU
// (tests/simt/simt.h).
#if defined(__CUDACC__) || defined(CBQ_SIMT)
#define CBQ_KERNELS 1

#ifdef __CUDACC__
#define CBQ_LAUNCH(kernel, grid, block, ...) \
  kernel<<<static_cast<unsigned>(grid), block, 0, current_stream()>>>(__VA_ARGS__)
#endif

/// A row on CUDA: the workers are the threads of one block.
struct BlockRow {
  __device__ static int64_t lane() { return threadIdx.x; }
  __device__ static int64_t lanes() { return blockDim.x; }
  template <class A>
  __device__ static A sum(A x) {
    return combine(x, A(0), [](A a, A b) { return a + b; });
  }
  template <class A>
  __device__ static A max(A x) {
    return combine(x, A(-INFINITY), [](A a, A b) { return a > b || a != a ? a : b; });
  }
  __device__ static void sync() { __syncthreads(); }

 private:
  // Shuffles inside each warp, then the warps' results inside every warp: all workers end with the
  // same value, combined in the same order every time.
  template <class A, class Op>
  __device__ static A combine(A x, A identity, Op op) {
    __shared__ A partial[32];
    const int warp = threadIdx.x / 32, within = threadIdx.x % 32;
    const int warps = blockDim.x / 32;
    for (int offset = 16; offset > 0; offset /= 2) {
      x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    if (warps == 1) return x;
    __syncthreads();  // readers of the previous call are done with `partial`
    if (within == 0) partial[warp] = x;
    __syncthreads();
    x = within < warps ? partial[within] : identity;
    for (int offset = 16; offset > 0; offset /= 2) {
      x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    return x;
  }
};

template <class F>
__global__ void __launch_bounds__(256) map_kernel(int64_t n, F f) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    f(i);
  }
}

template <class F>
__global__ void __launch_bounds__(512) map_rows_kernel(int64_t rows, F f) {
  BlockRow row;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    f(row, r);
    __syncthreads();
  }
}
#endif  // CBQ_KERNELS

/// True where functors become grids: on CUDA devices, and in the tests that emulate one.
inline bool runs_on_grid([[maybe_unused]] Device device) {
#ifdef CBQ_SIMT
  return !device.is_cuda() && simt::emulating();
#else
  return device.is_cuda();
#endif
}

/// True where the host can look at elements without a copy: argument checks on token ids.
inline bool is_host(Device device) { return !device.is_cuda(); }

/// Debug switch (environment CBQ_SYNC=1): wait after every launch, so that an asynchronous CUDA
/// fault is reported by the op that caused it.
void after_launch(Device device, const char* op);

namespace detail {
template <class F>
struct MapCall {
  const char* op;
  int64_t n;
  F f;
  void operator()() const;
};
template <class F>
struct MapRowsCall {
  const char* op;
  int64_t rows, width;
  F f;
  void operator()() const;
};
}  // namespace detail

template <class F>
void map(const char* op, Device device, int64_t n, const F& f) {
  if (n == 0) return;
  const OpTimer timer(op, device);
#ifdef CBQ_KERNELS
  if (runs_on_grid(device)) {
    const int block = 256;
    const int64_t grid = std::min<int64_t>((n + block - 1) / block, 132 * 64);
    CBQ_LAUNCH(map_kernel, grid, block, n, f);
    after_launch(device, op);
    return;
  }
#endif
  if (device.is_cuda()) fail(op, ": this binary was built without CUDA");
  if (Recording* recording = Recording::active()) {
    recording->add(detail::MapCall<F>{op, n, f});
    return;
  }
#pragma omp parallel if (n >= detail::parallel_threshold)
  {
    // This copy of the functor is private to a thread, so its members cannot alias what it writes,
    // and `simd` states what map() means anyway: the calls are independent. Both let the loop
    // vectorize.
    const F local = f;
#pragma omp for simd schedule(static)
    for (int64_t i = 0; i < n; ++i) local(i);
  }
}

/// `width` is the length of a row: it only decides how many workers share it and whether threads
/// pay.
template <class F>
void map_rows(const char* op, Device device, int64_t rows, int64_t width, const F& f) {
  if (rows == 0) return;
  const OpTimer timer(op, device);
#ifdef CBQ_KERNELS
  if (runs_on_grid(device)) {
    // A worker takes at least four elements; whole warps, because row.sum shuffles in warps.
    int block = 32;
    while (block < 512 && block * 4 < width) block *= 2;
    const int64_t grid = std::min<int64_t>(rows, 132 * 32);
    CBQ_LAUNCH(map_rows_kernel, grid, block, rows, f);
    after_launch(device, op);
    return;
  }
#endif
  if (device.is_cuda()) fail(op, ": this binary was built without CUDA");
  if (Recording* recording = Recording::active()) {
    recording->add(detail::MapRowsCall<F>{op, rows, width, f});
    return;
  }
#pragma omp parallel if (rows > 1 && rows * width >= detail::parallel_threshold)
  {
    const F local = f;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      SerialRow row;
      local(row, r);
    }
  }
}

template <class F>
void detail::MapCall<F>::operator()() const {
  map(op, Device::cpu(), n, f);
}
template <class F>
void detail::MapRowsCall<F>::operator()() const {
  map_rows(op, Device::cpu(), rows, width, f);
}

}  // namespace cbq
