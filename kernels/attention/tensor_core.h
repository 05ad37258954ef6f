// Products of 16 x 16 by 16 x 8 matrices on tensor cores, and what feeds them: a warp's loads of
// 8 x 8 matrices from shared memory, and copies from memory to shared memory that nobody waits for.
// The instructions themselves: tensor_core_instructions.h.
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

#include "kernels/attention/tensor_core_instructions.h"
#include "kernels/launch/tuned.h"

namespace cbq::tuned {

#ifdef CBQ_KERNELS

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

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
