// CUDA kernels on a machine without a GPU: what they say becomes plain C++, and a grid runs thread
// by thread. The compiler reads this file before each .cu file of cbq_simt_tests
// (cmake/Simt.cmake), in which CBQ_SIMT is defined: kernels/launch/device_grid.h then has its
// kernels and launches them here.
//
// The threads of a block are fibers. A fiber runs until it waits for its warp at a shuffle or for
// its block at a barrier, and a warp runs until it waits for its block. What is found:
//   - threads that wait for others which never come: an error that says who waits where;
//   - a missing barrier: warps run ahead of each other, and every second launch runs blocks and
//     threads in reverse, so that some reader comes before its writer, or after the next one; in
//     the program cbq_simt_races ThreadSanitizer, told which fiber runs and what a barrier orders,
//     reports the two accesses themselves;
//   - a shuffle without all lanes of the warp: an error;
//   - dynamic shared memory read before it is written: every block finds it full of NaN;
//   - asynchronous copies that nobody waited for, or that overwrite what is still read: they are
//     done when they are waited for, in launches in reverse order when they are asked for.
// Instructions of tensor cores are written from their layouts in tests/simt/tensor_core.cpp.
// What is not found: the rounding of fused multiply-adds, memory models, speed, and mistakes in
// what only nvcc compiles (__CUDA_ARCH__, asm).
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace cbq::simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

/// Where a kernel waits.
struct Site {
  const char* file;
  int line;
};
/// As a default argument: where the function is called.
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

/// Runs `body` for every thread of a grid. Throws std::runtime_error where threads wait in vain,
/// and what a thread throws.
void launch(int64_t grid, int block, const std::function<void()>& body);
/// The same with `shared_bytes` of dynamic shared memory, which begin at an address that 128
/// divides.
void launch(int64_t grid, int block, int64_t shared_bytes, const std::function<void()>& body);
/// Launches so far in this process.
int64_t launches();

/// True where functors of launch.h become grids; false inside an OnTheHost.
bool emulating();

/// While it lives, functors run as loops, as in the library: for what a grid is compared with.
class OnTheHost {
 public:
  OnTheHost();
  ~OnTheHost();
  OnTheHost(const OnTheHost&) = delete;
  OnTheHost& operator=(const OnTheHost&) = delete;

 private:
  bool before_;
};

/// While it lives, all launches run their threads in this order.
class InOrder {
 public:
  enum class Order { forward, reverse };
  explicit InOrder(Order order);
  ~InOrder();
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;
};

/// __syncthreads, __syncwarp.
void barrier(Site site);
void warp_barrier(Site site);
/// Gives `bits` to the warp and returns those of lane `source`.
uint64_t exchange(uint32_t mask, uint64_t bits, unsigned source, Site site);
/// This thread's place in its warp.
unsigned lane();

/// What a lane gives to its warp at once.
struct Words {
  uint64_t x[3];
};
/// Gives `mine` to the warp; the words of its 32 lanes, which stay until the next exchange.
const Words* gather(const Words& mine, Site site);

/// Where the dynamic shared memory of the running block begins.
void* dynamic_shared();

/// cp.async: bytes on their way to shared memory, in groups; `from` null: zeros.
struct AsyncCopies {
  struct Copy {
    void* to;
    const void* from;
    int bytes;
  };
  std::vector<Copy> open;                 // not committed
  std::vector<std::vector<Copy>> groups;  // committed, the oldest first
  bool at_once = false;
};
/// Those of the running thread.
AsyncCopies& async_copies();
void copy_async(void* to, const void* from, int bytes, Site site);
void commit_copies();
/// Until at most `pending` of the youngest groups are on their way.
void wait_copies(int pending);

/// mma.m16n8k16 of bf16 into f32, and ldmatrix.m8n8.x4: kernels/attention/tensor_core.h.
void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site);
void load_four_matrices(uint32_t (&to)[4], const void* row, bool transposed, Site site);

template <class T>
T shuffle(uint32_t mask, T x, unsigned source, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  bits = exchange(mask, bits, source, site);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace cbq::simt

/// What kernels/attention/tensor_core_instructions.h has for nvcc.
namespace cbq::tuned {

inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     simt::Site site = simt::here()) {
  simt::multiply_16x8x16(c, a, b0, b1, site);
}
inline void load_matrices(uint32_t (&to)[4], const void* row, simt::Site site = simt::here()) {
  simt::load_four_matrices(to, row, false, site);
}
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row,
                                     simt::Site site = simt::here()) {
  simt::load_four_matrices(to, row, true, site);
}
inline void copy_async(void* to, const void* from, bool exists, simt::Site site = simt::here()) {
  simt::copy_async(to, exists ? from : nullptr, 16, site);
}
inline void copy_async(float* to, const float* from, simt::Site site = simt::here()) {
  simt::copy_async(to, from, 4, site);
}
inline void commit_copies() { simt::commit_copies(); }
template <int pending>
void wait_copies() {
  simt::wait_copies(pending);
}
inline unsigned char* dynamic_shared() {
  return static_cast<unsigned char*>(simt::dynamic_shared());
}

}  // namespace cbq::tuned

// Set before a thread goes on.
inline cbq::simt::Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after another
#define __launch_bounds__(...)

#define CBQ_SIMT_SITE \
  ::cbq::simt::Site { __FILE__, __LINE__ }
#define __syncthreads() ::cbq::simt::barrier(CBQ_SIMT_SITE)
#define __syncwarp() ::cbq::simt::warp_barrier(CBQ_SIMT_SITE)
#define __shfl_sync(mask, x, source) ::cbq::simt::shuffle(mask, x, (source), CBQ_SIMT_SITE)
#define __shfl_xor_sync(mask, x, bits) \
  ::cbq::simt::shuffle(mask, x, ::cbq::simt::lane() ^ (bits), CBQ_SIMT_SITE)
#define __shfl_down_sync(mask, x, delta)                                                         \
  ::cbq::simt::shuffle(                                                                          \
      mask, x,                                                                                   \
      ::cbq::simt::lane() + (delta) < 32u ? ::cbq::simt::lane() + (delta) : ::cbq::simt::lane(), \
      CBQ_SIMT_SITE)

/// As kernels/launch/device_grid.h has it for nvcc.
#define CBQ_LAUNCH(kernel, grid, block, bytes, ...) \
  ::cbq::simt::launch(grid, block, bytes, [&] { kernel(__VA_ARGS__); })
