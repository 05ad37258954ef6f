// What the launchers of launch.h are made of: rows and their workers, kernels, and where functors
// become grids.
#pragma once

#include <cmath>
#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/error.h"
#include "tensor/runtime/device.h"
#include "tensor/runtime/stream.h"

namespace cbq {

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

// The hook of the emulator (tests/simt/simt.h), with which tests run kernels on the host. The
// compiler reads simt.h before a .cu file: it has CBQ_LAUNCH and the words that nvcc brings. No
// other place of the library knows of it (tools/checks/check_layers.py). `static`, because one
// program holds files that were compiled with the hook and files that were not.

/// True where functors become grids: on CUDA devices, and in the tests that emulate one.
#ifdef CBQ_SIMT
#define CBQ_KERNELS 1
static inline bool runs_on_grid(Device device) { return !device.is_cuda() && simt::emulating(); }
#else
static inline bool runs_on_grid(Device device) { return device.is_cuda(); }
#endif

// Kernels exist (CBQ_KERNELS) where nvcc compiles, too.
#ifdef __CUDACC__
#define CBQ_KERNELS 1
/// Runs kernel(arguments...) in `grid` blocks of `block` threads with `bytes` of dynamic shared
/// memory.
#define CBQ_LAUNCH(kernel, grid, block, bytes, ...)                                             \
  kernel<<<static_cast<unsigned>(grid), block, static_cast<size_t>(bytes), current_stream()>>>( \
      __VA_ARGS__)
#endif

#ifdef CBQ_KERNELS

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

/// True where the host can look at elements without a copy: argument checks on token ids.
inline bool is_host(Device device) { return !device.is_cuda(); }

/// Debug switch (environment CBQ_SYNC=1): wait after every launch, so that an asynchronous CUDA
/// fault is reported by the op that caused it.
void after_launch(Device device, const char* op);

}  // namespace cbq
