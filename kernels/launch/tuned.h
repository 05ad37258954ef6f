// What the tuned kernels are made of: launches of whole blocks, vectors of eight columns,
// exact quotients by a known divisor, sums over a warp.
#pragma once

#include <type_traits>

#include "kernels/launch/launch.h"
#include "kernels/launch/tuned_switch.h"
#include "kernels/launch/vector.h"

namespace cbq::tuned {

/// x / s correctly rounded, from r = 1 / s correctly rounded: a residual is exact, and one
/// correction of a quotient that is within one place of the truth gives the rounded quotient
/// (Markstein 1990). A numerator of eight bits (bf16) needs one correction; tried for all 128
/// mantissas against all 2^23 of s. One of 24 bits gets two.
template <class T>
CBQ_HD float quotient(float x, float s, float r) {
  float q = x * r;
  q = ::fmaf(::fmaf(-q, s, x), r, q);
  if constexpr (!std::is_same_v<T, bf16>) q = ::fmaf(::fmaf(-q, s, x), r, q);
  return q;
}

#ifdef CBQ_KERNELS

constexpr unsigned all_lanes = 0xffffffffu;

template <class F>
__global__ void __launch_bounds__(F::threads, F::resident_blocks) block_kernel(F f) {
  f();
}

/// The dynamic shared memory that F asks for.
template <class F>
constexpr int shared_bytes_of() {
  if constexpr (requires { F::shared_bytes; }) {
    return F::shared_bytes;
  } else {
    return 0;
  }
}

/// Runs f() in every thread of `blocks` blocks of F::threads, of which a multiprocessor shall hold
/// F::resident_blocks: that many share its registers. F::shared_bytes, if F has it, is a block's
/// dynamic shared memory; more than 48 KiB have to be asked for, once per kernel and device, which
/// is no operation of a stream, so it may happen while one is captured.
template <class F>
void launch_blocks(const char* op, Device device, int64_t blocks, const F& f) {
  const OpTimer timer(op, device);
  check(blocks < (int64_t{1} << 31), op, ": ", blocks, " blocks are more than a launch may have");
  constexpr int bytes = shared_bytes_of<F>();
#ifdef __CUDACC__
  if constexpr (bytes > 48 * 1024) {
    cuda_check(
        cudaFuncSetAttribute(block_kernel<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        op);
  }
#endif
  CBQ_LAUNCH(block_kernel, blocks, F::threads, bytes, f);
  after_launch(device, op);
  count_launch();
}

/// Neighbouring elements of a row that one lane treats, a vector: 16 bytes of bf16, or 32 of f32.
constexpr int lane_columns = vector_width;
template <class T>
using Columns = Vector<T>;

template <class T>
__device__ Columns<T> load_columns(const T* at) {
  return load_vector(at);
}

/// Rounds to T and stores.
template <class T>
__device__ void store_columns(T* at, const float (&x)[lane_columns]) {
  store_vector(at, round_vector<T>(x));
}

/// q = x / s; T says how many bits x has. Far from 1 a residual could underflow: plain division.
template <class T>
__device__ void quotients(const float (&x)[lane_columns], float s, float (&q)[lane_columns]) {
  if (s > 1e-20f && s < 1e20f) {
    const float r = 1.0f / s;
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) q[j] = quotient<T>(x[j], s, r);
  } else {
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) q[j] = x[j] / s;
  }
}

/// Sum over each group of `lanes` lanes (a power of two), in all of them.
__device__ inline float sum_over(float x, unsigned lanes) {
  for (unsigned offset = lanes / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(all_lanes, x, offset);
  return x;
}

/// Sums of eight values over the warp in 9 shuffles instead of 40: in each of the first three steps
/// a lane gives away the half of the values that its partner goes on with. Lane l ends with the sum
/// of value l / 4.
__device__ inline float sum_of_eight(float (&x)[8], unsigned lane) {
  unsigned offset = 16;
  CBQ_UNROLL
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (lane & offset) != 0;
    CBQ_UNROLL
    for (int i = 0; i < half; ++i) {
      const float give = upper ? x[i] : x[i + half], keep = upper ? x[i + half] : x[i];
      x[i] = keep + __shfl_xor_sync(all_lanes, give, offset);
    }
    offset /= 2;
  }
  return sum_over(x[0], 4);
}

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
