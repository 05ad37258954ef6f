// Gradients of the fake quantization of a weight on CUDA. Reference kernel: RoundBackward in
// quant/rounding_kernels.h; per weight the arithmetic is the same, sums are taken in another order.
//
// As in the forward pass a warp goes down the rows of 256 columns. dA2 of its columns gathers in
// registers; a row's shares of dL/ds and dA1 are summed over the warp and stored as partial sums.
// No atomics: every sum has its fixed place and order. Per weight:
//   memory        4 bytes read (W and dW^, bf16); dense: + 4 read, 4 written. Partial sums, written
//                 and read once: dL/ds 8 / 256 bytes, dA1 8 r / 256, dA2 8 r / rows_per_block:
//                 0.8 bytes at rank 5, most of which stay in the L2 cache.
//   instructions  some 35 for u, v, the code and both derivatives, 3.5 per rank, 4 for sums over
//                 the warp; with a rectified sigmoid 30 more (an exponential and a division).
// The reference kernel reads and writes A2 and dA2 in memory for each row, 12 r bytes per weight,
// and has the costs that quantize_weight.h lists. Unmeasured, as there.
#pragma once

#include "kernels/fused/quantize_weight.h"

namespace cbq::tuned {

/// Rows of a block, which share a partial sum of dA2.
constexpr int64_t backward_rows = 64;

#ifdef CBQ_KERNELS

template <class Math, class T, class View, int variables>
struct QuantizeWeightBackward {
  static constexpr int threads = 32 * block_warps;
  static constexpr int resident_blocks = variables <= 5 ? 3 : 2;  // A2 and dA2 lie in registers
  using Lane = WeightLane<Math, T, View, variables>;
  View view;
  const T* dw;
  float* d_scale;    // [parts of 256 columns per group, out, groups]
  float* d_dense;    // [out, in]
  float* d_a1;       // [tiles of 256 columns, out, rank]
  float* d_a2;       // [blocks of rows, rank, in]
  unsigned segment;  // lanes that share a scale
  float regularizer, beta;
  const double* now;  // {regularizer, beta} where they change between launches, or null

  __device__ void operator()() const {
    const int tiles = static_cast<int>((view.in + warp_columns - 1) / warp_columns);
    const int tile = static_cast<int>(blockIdx.x) % tiles;
    const int64_t block = static_cast<int64_t>(blockIdx.x) / tiles, first = block * backward_rows;
    const int64_t last = math::min(first + backward_rows, view.out);
    const Lane lane(view, tile);
    const float weight = now != nullptr ? static_cast<float>(now[0]) : regularizer;
    const float exponent = now != nullptr ? static_cast<float>(now[1]) : beta;
    float sums[Lane::array][lane_columns] = {};  // dA2
    int64_t i = first + threadIdx.x / 32;
    typename Lane::Row next{};
    Columns<T> next_g{};
    if (i < last) load(lane, i, next, next_g);
    for (; i < last; i += block_warps) {
      const auto row = next;
      const Columns<T> g = next_g;
      if (i + block_warps < last) load(lane, i + block_warps, next, next_g);
      float dv[lane_columns];
      store_scale(lane, i, derivatives(lane, row, g, weight, exponent, dv));
      if constexpr (variables == dense_variables) {
        if (lane.exists) store_columns(d_dense + i * view.in + lane.column, dv);
      }
      if constexpr (Lane::rank > 0) add_low_rank(lane, row, tile, i, dv, sums);
    }
    if constexpr (Lane::rank > 0) store_a2(tile, block, sums);
  }

  __device__ void load(const Lane& lane, int64_t i, typename Lane::Row& row, Columns<T>& g) const {
    row = lane.load(i);
    if (lane.exists) g = load_columns(dw + i * view.in + lane.column);
  }

  /// dv = dL/dp; returns the lane's share of dL/ds.
  __device__ float derivatives(const Lane& lane, const typename Lane::Row& row, const Columns<T>& g,
                               float weight, float exponent, float (&dv)[lane_columns]) const {
    float u[lane_columns], v[lane_columns], offset[lane_columns], ds = 0.0f;
    lane.prepare(row, u, v, offset);
    const float unit = Math::in_weight_units ? row.unit : row.s;
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) {
      const float gj = static_cast<float>(g.x[j]), q = Math::rounded(u[j], v[j]) + row.z;
      const float inside = q >= 0.0f && q <= view.largest_code ? 1.0f : 0.0f;
      const float slope = inside * Math::d_dv(u[j], v[j]);
      const float through = inside * u[j] * Math::d_du(u[j], v[j]) +
                            (Math::in_weight_units ? offset[j] * slope : 0.0f);
      ds += gj * (math::clamp(q, 0.0f, view.largest_code) - row.z - through);
      dv[j] = gj * unit * slope;
    }
    if constexpr (variables != no_variables) {
      ds += Math::finish(weight, exponent, row.unit, row.s, v, offset, dv);
    }
    return ds;
  }

  __device__ void store_scale(const Lane& lane, int64_t i, float ds) const {
    ds = sum_over(ds, segment);
    if (!lane.exists || (threadIdx.x & (segment - 1u)) != 0) return;
    const int64_t part = (lane.column - lane.group * view.group) / warp_columns;
    d_scale[(part * view.out + i) * view.groups + lane.group] = ds;
  }

  /// dA1[i, k] = sum_j A2[k, j] dv_j over the warp's columns; dA2[k, j] += A1[i, k] dv_j.
  __device__ void add_low_rank(const Lane& lane, const typename Lane::Row& row, int tile, int64_t i,
                               const float (&dv)[lane_columns],
                               float (&sums)[Lane::array][lane_columns]) const {
    static_assert(Lane::rank <= 8);
    float d1[8] = {};
    CBQ_UNROLL
    for (int k = 0; k < Lane::rank; ++k) {
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        d1[k] = ::fmaf(lane.a2[k][j], dv[j], d1[k]);
        sums[k][j] = ::fmaf(row.a1[k], dv[j], sums[k][j]);
      }
    }
    const unsigned own = threadIdx.x % 32;
    const int k = static_cast<int>(own / 4);
    const float sum = sum_of_eight(d1, own);
    if (own % 4 == 0 && k < view.rank) d_a1[(tile * view.out + i) * view.rank + k] = sum;
  }

  /// The block's warps added up, in their order.
  __device__ void store_a2(int tile, int64_t block,
                           const float (&sums)[Lane::array][lane_columns]) const {
    alignas(16) __shared__ float shared[block_warps][warp_columns];
    const int warp = threadIdx.x / 32, own = threadIdx.x % 32;
    const int width =
        static_cast<int>(math::min<int64_t>(warp_columns, view.in - tile * warp_columns));
    CBQ_UNROLL
    for (int k = 0; k < Lane::rank; ++k) {
      if (k >= view.rank) break;
      __syncthreads();  // readers of the previous row are done with `shared`
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) shared[warp][own * lane_columns + j] = sums[k][j];
      __syncthreads();
      float* out = d_a2 + (block * view.rank + k) * view.in + tile * warp_columns;
      for (int c = threadIdx.x; c < width; c += threads) {
        float total = 0.0f;
        for (int w = 0; w < block_warps; ++w) total += shared[w][c];
        out[c] = total;
      }
    }
  }
};

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
