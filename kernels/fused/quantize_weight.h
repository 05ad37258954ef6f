// Fake quantization of a weight on CUDA. Reference kernel: RoundForward in
// quant/rounding_kernels.h, whose arithmetic this repeats operation by operation: results are equal
// to the last bit.
//
// A lane holds eight neighbouring columns, a warp 256; its rows of A2 stay in registers while it
// goes down the rows, and the next row's W is on its way while this one is computed. Per weight:
//   memory        2 bytes read, 2 written (bf16); + 4 read for dense variables. Low rank: A2 once
//   per
//                 `rows_per_block` rows from the L2 cache (0.6 bytes at rank 5), A1 and the grid
//                 once per 256 weights (0.1).
//   instructions  about 35 for rank 5, hard, start "nearest"; about 100 where v0 takes a logarithm.
// An H200 has 27 instructions per weight in the time its memory takes for 4 bytes. The reference
// kernel takes several hundred: every access to a worker's buffers divides 64-bit integers, and the
// buffers lie in local memory, since their index is not known when it is compiled; W comes in
// scalar loads; A2 is read from memory for each row. Unmeasured: no GPU has run either yet
// (docs/life-of-an-op.md, "Tuned kernels").
#pragma once

#include "kernels/launch/tuned.h"

namespace cbq::tuned {

/// Where rounding variables come from; a positive number is the largest rank.
constexpr int no_variables = 0, dense_variables = -1;

constexpr int warp_columns = 256, block_warps = 4;

#ifdef CBQ_KERNELS

/// A lane's eight columns of a weight. View is quant's RoundingView<T>, Math its LaneMath: the
/// scalar functions of a scheme in one of its phases.
template <class Math, class T, class View, int variables>
struct WeightLane {
  static constexpr int rank = variables > 0 ? variables : 0;
  static constexpr int array = rank > 0 ? rank : 1;  // C++ has no empty arrays

  /// What a row of the weight brings.
  struct Row {
    Columns<T> w;
    Columns<float> p;
    float s, z;
    float unit = 0.0f;  // read, and loaded, only where the scheme has it
    float a1[array];
  };

  const View& view;
  int column;
  bool exists;  // the last warp of a row may be wider than the row
  int group;
  float a2[array][lane_columns];

  __device__ WeightLane(const View& weight, int tile)
      : view(weight), column(tile * warp_columns + threadIdx.x % 32 * lane_columns) {
    exists = column < view.in;
    group = view.groups == 1 || !exists ? 0 : column / static_cast<int>(view.group);
    if constexpr (rank > 0) {
      CBQ_UNROLL
      for (int k = 0; k < rank; ++k) {
        const bool there = exists && k < view.rank;
        const Columns<float> c =
            there ? load_columns(view.a2 + k * view.in + column) : Columns<float>{};
        CBQ_UNROLL
        for (int j = 0; j < lane_columns; ++j) a2[k][j] = c.x[j];
      }
    }
  }

  /// Lanes beyond the row get numbers that leave every sum as it is.
  __device__ Row load(int64_t i) const {
    Row row{};
    row.s = 1.0f;
    if (!exists) return row;
    const int64_t at = i * view.in + column, g = view.one_scale ? 0 : i * view.groups + group;
    row.w = load_columns(view.w + at);
    row.s = view.scale[g];
    row.z = view.zero_point[g];
    if constexpr (Math::in_weight_units && variables != no_variables) row.unit = view.unit[g];
    if constexpr (variables == dense_variables) row.p = load_columns(view.dense + at);
    if constexpr (rank > 0) {
      CBQ_UNROLL
      for (int k = 0; k < rank; ++k) row.a1[k] = k < view.rank ? view.a1[i * view.rank + k] : 0.0f;
    }
    return row;
  }

  /// u = w/s, v = clamp(v0(u) + p) and, of schemes whose p is an offset of the weight, p unit / s,
  /// as load_range has them.
  __device__ void prepare(const Row& row, float (&u)[lane_columns], float (&v)[lane_columns],
                          float (&offset)[lane_columns]) const {
    float x[lane_columns];
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) {
      x[j] = static_cast<float>(row.w.x[j]);
      v[j] = 0.0f;
      if constexpr (variables == dense_variables) v[j] = row.p.x[j];
      if constexpr (rank > 0) {
        CBQ_UNROLL
        for (int k = 0; k < rank; ++k) v[j] += row.a1[k] * a2[k][j];
      }
    }
    quotients<T>(x, row.s, u);
    if constexpr (Math::in_weight_units && variables != no_variables) {
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) x[j] = v[j] * row.unit;
      quotients<float>(x, row.s, v);
    }
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) offset[j] = v[j];
    Math::start(view.start, u, v);
  }
};

/// y = s (clamp(r + z, 0, 2^b - 1) - z).
template <class Math, class T, class View, int variables>
struct QuantizeWeight {
  static constexpr int threads = 32 * block_warps;
  static constexpr int resident_blocks = 3;
  static constexpr int rows_per_block = 8 * block_warps;
  View view;
  T* y;

  __device__ void operator()() const {
    const int tiles = static_cast<int>((view.in + warp_columns - 1) / warp_columns);
    const WeightLane<Math, T, View, variables> lane(view, static_cast<int>(blockIdx.x) % tiles);
    if (!lane.exists) return;
    const int64_t first = static_cast<int64_t>(blockIdx.x) / tiles * rows_per_block;
    const int64_t last = math::min(first + rows_per_block, view.out);
    int64_t i = first + threadIdx.x / 32;
    if (i >= last) return;
    auto next = lane.load(i);
    for (; i < last; i += block_warps) {
      const auto row = next;
      if (i + block_warps < last) next = lane.load(i + block_warps);
      float u[lane_columns], v[lane_columns], offset[lane_columns];
      lane.prepare(row, u, v, offset);
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        const float q = math::clamp(Math::rounded(u[j], v[j]) + row.z, 0.0f, view.largest_code);
        u[j] = row.s * (q - row.z);
      }
      store_columns(y + i * view.in + lane.column, u);
    }
  }
};

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
