// What the kernels of attention share: matrices of a head in shared memory, products of a warp's
// rows with them, and what becomes of a score.
#pragma once

#include "kernels/attention/tensor_core.h"

namespace cbq::tuned {

constexpr float log2_of_e = 1.44269504088896341f, log_of_2 = 0.693147180559945309f;

/// Of a call of attention: q [batch * tokens, heads * dim], k and v [batch * tokens,
/// kv_heads * dim], all on 16-byte addresses.
struct AttentionView {
  const bf16 *q, *k, *v;
  const float* slopes;  // or null
  int heads, kv_heads, tokens;
  float factor;  // 1 / sqrt(dim)

  CBQ_HD int group() const { return heads / kv_heads; }
};

#ifdef CBQ_KERNELS

/// Threads of a block: four warps, each with rows of its own.
constexpr int attention_threads = 128;
/// Keys in shared memory at a time; backward, queries too.
constexpr int tile_rows = 64;
constexpr int tiles_of(int rows) { return (rows + tile_rows - 1) / tile_rows; }

/// Elements from row to row in shared memory: an odd number of 16-byte groups for all four head
/// sizes, so that ldmatrix finds eight rows in eight different groups of banks.
template <int dim>
constexpr int row_stride = dim + 8;

/// Starts copies of the rows first .. first + rows of matrices whose rows are `width` elements
/// apart and of which `end` exist; zeros for the rest. They come to lie one matrix behind the
/// other.
template <int dim, int rows, class... Matrix>
__device__ void start_rows(bf16* to, int64_t width, int first, int end, Matrix... matrices) {
  constexpr int chunks = dim / 8;
  static_assert(rows * chunks % attention_threads == 0);
  CBQ_UNROLL
  for (int step = 0; step < rows * chunks / attention_threads; ++step) {
    const int i = step * attention_threads + static_cast<int>(threadIdx.x);
    const int row = i / chunks, column = i % chunks * 8;
    const bool exists = first + row < end;
    const int64_t from = (exists ? first + row : 0) * width + column;
    bf16* at = to + row * row_stride<dim> + column;
    ((copy_async(at, matrices + from, exists), at += rows * row_stride<dim>), ...);
  }
}

/// C[i] += A_i B^T: A_i are 16 rows each, from a[k][i] for every 16 columns k; B has 8 n rows.
template <int dim, int m, int n>
__device__ void multiply_rows(float (&c)[m][n][4], const uint32_t (&a)[dim / 16][m][4],
                              const bf16* b) {
  CBQ_UNROLL
  for (int k = 0; k < dim / 16; ++k) {
    CBQ_UNROLL
    for (int j = 0; j < n; j += 2) {
      uint32_t y[4];
      load_b_of_rows(y, b + 8 * j * row_stride<dim> + 16 * k, row_stride<dim>);
      CBQ_UNROLL
      for (int i = 0; i < m; ++i) {
        multiply(c[i][j], a[k][i], y[0], y[1]);
        multiply(c[i][j + 1], a[k][i], y[2], y[3]);
      }
    }
  }
}

/// The same with A from shared memory, for which there are no registers.
template <int dim, int m, int n>
__device__ void multiply_rows(float (&c)[m][n][4], const bf16* a, const bf16* b) {
  CBQ_UNROLL
  for (int k = 0; k < dim / 16; ++k) {
    uint32_t x[m][4];
    CBQ_UNROLL
    for (int i = 0; i < m; ++i)
      load_a(x[i], a + 16 * i * row_stride<dim> + 16 * k, row_stride<dim>);
    CBQ_UNROLL
    for (int j = 0; j < n; j += 2) {
      uint32_t y[4];
      load_b_of_rows(y, b + 8 * j * row_stride<dim> + 16 * k, row_stride<dim>);
      CBQ_UNROLL
      for (int i = 0; i < m; ++i) {
        multiply(c[i][j], x[i], y[0], y[1]);
        multiply(c[i][j + 1], x[i], y[2], y[3]);
      }
    }
  }
}

/// C[i] += P_i B: P_i are accumulators of 16 rows and 8 n columns, rounded to bf16; B has 8 n rows.
template <int dim, int m, int n>
__device__ void multiply_columns(float (&c)[m][dim / 8][4], const float (&p)[m][n][4],
                                 const bf16* b) {
  CBQ_UNROLL
  for (int k = 0; k < n; k += 2) {
    uint32_t x[m][4];
    CBQ_UNROLL
    for (int i = 0; i < m; ++i) pack_a(x[i], p[i][k], p[i][k + 1]);
    CBQ_UNROLL
    for (int j = 0; j < dim / 8; j += 2) {
      uint32_t y[4];
      load_b_of_columns(y, b + 8 * k * row_stride<dim> + 8 * j, row_stride<dim>);
      CBQ_UNROLL
      for (int i = 0; i < m; ++i) {
        multiply(c[i][j], x[i], y[0], y[1]);
        multiply(c[i][j + 1], x[i], y[2], y[3]);
      }
    }
  }
}

/// ALiBi's bias of two keys, rounded to bf16 as the reference kernel rounds it, in powers of two.
__device__ inline void alibi(float slope, int first, int second, float& a, float& b) {
  const uint32_t pair = pack(slope * static_cast<float>(first), slope * static_cast<float>(second));
  a = detail::float_of(pair << 16) * log2_of_e;
  b = detail::float_of(pair & 0xffff0000u) * log2_of_e;
}

/// Rounds 16 rows to bf16 and stores those of them that exist: through the rows at `shared`, which
/// belong to this warp alone, so that a row leaves in whole groups of 16 bytes.
template <int dim>
__device__ void store_rows(const float (&c)[dim / 8][4], bf16* shared, bf16* to, int64_t width,
                           int existing) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, p = lane % 4 * 2;
  __syncwarp();  // readers of these rows are done with them
  CBQ_UNROLL
  for (int j = 0; j < dim / 8; ++j) {
    CBQ_UNROLL
    for (int half = 0; half < 2; ++half) {
      const uint32_t pair = pack(c[j][2 * half], c[j][2 * half + 1]);
      void* at = shared + (g + 8 * half) * row_stride<dim> + 8 * j + p;
      memcpy(at, &pair, sizeof pair);
    }
  }
  __syncwarp();
  constexpr int chunks = dim / 8;
  CBQ_UNROLL
  for (int i = lane; i < 16 * chunks; i += 32) {
    const int row = i / chunks, column = i % chunks * 8;
    if (row < existing) {
      *reinterpret_cast<Columns<bf16>*>(to + row * width + column) =
          load_columns(shared + row * row_stride<dim> + column);
    }
  }
}

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
