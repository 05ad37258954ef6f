// Products of 16 x 16 by 16 x 8 matrices on tensor cores, and what feeds them: a warp's loads of
// 8 x 8 matrices from shared memory, and copies from memory to shared memory that nobody waits for.
//
// The instructions are those of compute capability 8.0 (PTX ISA 7.0). Section numbers are those of
// PTX ISA 9.2; a lane l has group g = l / 4 and place p = l % 4, and a register holds two
// neighbouring elements, the first in its lower half.
//
//   mma.m16n8k16, 9.7.14.5.8    C [16, 8] += A [16, 16] B [16, 8]
//     a0  A[g][2p, 2p+1]        a1  A[g + 8][2p, 2p+1]
//     a2  A[g][2p+8, 2p+9]      a3  A[g + 8][2p+8, 2p+9]
//     b0  B[2p, 2p+1][g]        b1  B[2p+8, 2p+9][g]
//     c0, c1  C[g][2p, 2p+1]    c2, c3  C[g + 8][2p, 2p+1]
//   ldmatrix.m8n8.x4, 9.7.14.5.15: lane 8 m + r gives the address of row r of matrix m (16 bytes,
//   at
//     an address that 16 divides); register m is then M_m[g][2p, 2p+1], with .trans
//     M_m[2p, 2p+1][g].
//   cp.async, 9.7.9.25.3 ("Non-bulk copy"): with src-size 0 the 16 bytes become zero and nothing is
//     read. A thread sees its own copies after wait_group; the others after a barrier on top.
//
// Two neighbouring accumulators are, rounded and packed, the A of 16 further columns: a product's
// result enters the next product without leaving the registers.
#pragma once

#include "kernels/launch/tuned.h"

namespace cbq::tuned {

#ifdef CBQ_KERNELS

/// C += A B.
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef CBQ_SIMT
  simt::multiply_16x8x16(c, a, b0, b1, CBQ_SIMT_SITE);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Four 8 x 8 matrices from shared memory; `row` is the one that this lane names.
__device__ inline void load_matrices(uint32_t (&to)[4], const bf16* row) {
#ifdef CBQ_SIMT
  simt::load_four_matrices(to, row, false, CBQ_SIMT_SITE);
#else
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
#endif
}
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const bf16* row) {
#ifdef CBQ_SIMT
  simt::load_four_matrices(to, row, true, CBQ_SIMT_SITE);
#else
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
#endif
}

// Where the fragments of a matrix lie whose rows are `stride` elements apart in shared memory. With
// (stride / 8) odd, eight rows lie in eight different groups of banks.

/// A = M[0..16][0..16].
__device__ inline void load_a(uint32_t (&a)[4], const bf16* m, int stride) {
  const int lane = threadIdx.x % 32;
  load_matrices(a, m + lane % 16 * stride + lane / 16 * 8);
}
/// Two B, of M[0..16][0..16] transposed: registers 0 and 1 are B[k][n] = M[n][k] for n < 8,
/// registers 2 and 3 for 8 further n.
__device__ inline void load_b_of_rows(uint32_t (&b)[4], const bf16* m, int stride) {
  const int lane = threadIdx.x % 32;
  load_matrices(b, m + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}
/// Two B, of M[0..16][0..16] as it is: registers 0 and 1 are B[k][n] = M[k][n] for n < 8, registers
/// 2 and 3 for 8 further n.
__device__ inline void load_b_of_columns(uint32_t (&b)[4], const bf16* m, int stride) {
  const int lane = threadIdx.x % 32;
  load_matrices_transposed(b, m + lane % 16 * stride + lane / 16 * 8);
}

/// Two values as bf16, rounded to nearest even; the first in the lower half.
__device__ inline uint32_t pack(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return bf16(first).bits | static_cast<uint32_t>(bf16(second).bits) << 16;
#endif
}

/// The A of 16 columns, from the accumulators of their first and second eight.
__device__ inline void pack_a(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = pack(first[0], first[1]);
  a[1] = pack(first[2], first[3]);
  a[2] = pack(second[0], second[1]);
  a[3] = pack(second[2], second[3]);
}

/// 2^x, as the hardware has it: two units in the last place off; 0 for -inf and below 2^-126.
__device__ inline float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2f(x);
#endif
}

/// Starts a copy of 16 bytes to shared memory; zeros where nothing `exists` at `from`, which must
/// be a valid address all the same.
__device__ inline void copy_async(void* to, const void* from, bool exists) {
#ifdef CBQ_SIMT
  simt::copy_async(to, exists ? from : nullptr, 16, CBQ_SIMT_SITE);
#else
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at),
               "l"(__cvta_generic_to_global(from)), "r"(exists ? 16 : 0)
               : "memory");
#endif
}
/// The same for one float.
__device__ inline void copy_async(float* to, const float* from) {
#ifdef CBQ_SIMT
  simt::copy_async(to, from, 4, CBQ_SIMT_SITE);
#else
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at),
               "l"(__cvta_generic_to_global(from))
               : "memory");
#endif
}
/// What this thread started since the last call is a group.
__device__ inline void commit_copies() {
#ifdef CBQ_SIMT
  simt::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until at most `pending` of this thread's groups are on their way.
template <int pending>
__device__ void wait_copies() {
#ifdef CBQ_SIMT
  simt::wait_copies(pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

/// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
#ifdef CBQ_SIMT
  return static_cast<unsigned char*>(simt::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return shared_bytes;
#endif
}

#if defined(__CUDACC__)
#define CBQ_LAUNCH_SHARED(kernel, grid, block, bytes, ...)                                      \
  kernel<<<static_cast<unsigned>(grid), block, static_cast<size_t>(bytes), current_stream()>>>( \
      __VA_ARGS__)
#else
#define CBQ_LAUNCH_SHARED(kernel, grid, block, bytes, ...) \
  ::cbq::simt::launch(grid, block, bytes, [&] { kernel(__VA_ARGS__); })
#endif

/// Runs f() in every thread of `blocks` blocks of F::threads with F::shared_bytes of dynamic shared
/// memory. More than 48 KiB have to be asked for, once per kernel and device; this is no operation
/// of a stream, so it may happen while one is captured.
template <class F>
void launch_blocks_shared(const char* op, Device device, int64_t blocks, const F& f) {
  const OpTimer timer(op, device);
  check(blocks < (int64_t{1} << 31), op, ": ", blocks, " blocks are more than a launch may have");
#ifdef __CUDACC__
  if (F::shared_bytes > 48 * 1024) {
    cuda_check(cudaFuncSetAttribute(block_kernel<F>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    F::shared_bytes),
               op);
  }
#endif
  CBQ_LAUNCH_SHARED(block_kernel<F>, blocks, F::threads, F::shared_bytes, f);
  after_launch(device, op);
  count_launch();
}

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
