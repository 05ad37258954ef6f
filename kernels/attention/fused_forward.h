// Causal attention on tensor cores, forward: scores stay in registers (online softmax: Milakov and
// Gimelshein 2018; Dao et al. 2022). Reference kernel: kernels/attention.cu.
//
// A block has 128 queries of one head, a warp 32 of them; it goes through the keys in tiles of 64,
// up to the diagonal. While a tile is worked on, the next one is copied. Of a row a lane holds two
// columns in every eight; four lanes share it. P enters its product as bf16, the sum of P does not.
// Blocks with many keys come first. Per tile of 64 keys, head size 128, and warp:
//   tensor cores   256 products of 16 x 8 x 16, 420 cycles of a multiprocessor if it does 2,500
//                  operations a cycle this way (60 % of what wgmma reaches on 9.0)
//   shared memory  K and V once, the warp's Q once: 40 KiB, 320 cycles
//   exponentials   64 for each lane, 128 cycles
// With 16 rows to a warp, shared memory would take longer than the products. Unmeasured.
#pragma once

#include "kernels/attention/fused_tiles.h"

namespace cbq::tuned {

#ifdef CBQ_KERNELS

template <int dim>
struct AttentionForward {
  static constexpr int threads = attention_threads, resident_blocks = 2;
  static constexpr int m = 2, n = tile_rows / 8;  // products of a warp: 16 m rows, 8 n keys
  static constexpr int warp_queries = 16 * m, queries = threads / 32 * warp_queries;
  static constexpr int stride = row_stride<dim>, tile = tile_rows * stride;
  static constexpr int shared_bytes = (queries * stride + 4 * tile) * 2;
  AttentionView view;
  bf16* o;
  float* log_sum;  // [batch * heads, tokens]
  int pairs;       // batch * heads

  /// What a warp keeps of its rows. `largest` is in units of `unit` powers of two.
  struct Rows {
    float o[m][dim / 8][4] = {};
    float largest[m][2], sum[m][2];
  };
  /// Where a block and its warp are.
  struct Place {
    int head, element, first, warp_first;
    int64_t row, width, kv_width;
    float slope;
  };

  __device__ Place place() const {
    Place at;
    const int pair = static_cast<int>(blockIdx.x) % pairs;
    const int tiles = (view.tokens + queries - 1) / queries;
    at.head = pair % view.heads;
    at.element = pair / view.heads;
    at.first = (tiles - 1 - static_cast<int>(blockIdx.x) / pairs) * queries;
    at.warp_first = at.first + static_cast<int>(threadIdx.x) / 32 * warp_queries;
    at.row = static_cast<int64_t>(at.element) * view.tokens;
    at.width = static_cast<int64_t>(view.heads) * dim;
    at.kv_width = static_cast<int64_t>(view.kv_heads) * dim;
    at.slope = view.slopes == nullptr ? 0.0f : view.slopes[at.head];
    return at;
  }

  __device__ void operator()() const {
    const Place at = place();
    auto* shared_q = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* shared_kv = shared_q + queries * stride;
    start_rows<dim, queries>(shared_q, at.width, at.first, view.tokens,
                             view.q + at.row * at.width + at.head * dim);
    start_keys(at, 0, shared_kv);
    Rows rows;
    CBQ_UNROLL
    for (int i = 0; i < 2 * m; ++i) {
      rows.largest[i / 2][i % 2] = -INFINITY;
      rows.sum[i / 2][i % 2] = 0.0f;
    }
    bf16* own_q = shared_q + (at.warp_first - at.first) * stride;
    const int last = math::min(at.first + queries, view.tokens) - 1;
    const int warp_last = math::min(at.warp_first + warp_queries, view.tokens) - 1;
    for (int t = 0; t <= last / tile_rows; ++t) {
      wait_copies<0>();
      __syncthreads();  // tile t is there, and the one before it read by all
      if (t < last / tile_rows) start_keys(at, t + 1, shared_kv + (t + 1) % 2 * 2 * tile);
      if (at.warp_first < view.tokens && t * tile_rows <= warp_last)
        add_keys(at, t * tile_rows, own_q, shared_kv + t % 2 * 2 * tile, rows);
    }
    if (at.warp_first < view.tokens) store(at, rows, own_q);
  }

  __device__ void start_keys(const Place& at, int t, bf16* to) const {
    const int64_t from = at.row * at.kv_width + at.head / view.group() * dim;
    start_rows<dim, tile_rows>(to, at.kv_width, t * tile_rows, view.tokens, view.k + from,
                               view.v + from);
    commit_copies();
  }

  /// The keys key .. key + 64, whose K and V lie at `kv`.
  __device__ void add_keys(const Place& at, int key, const bf16* q, const bf16* kv,
                           Rows& rows) const {
    float s[m][n][4] = {};
    multiply_rows<dim, m, n>(s, q, kv);
    float unit = view.factor * log2_of_e;
    if (view.slopes != nullptr) {
      add_bias(at, key, unit, s);
      unit = 1.0f;
    }
    if (key + tile_rows - 1 > at.warp_first) mask(at, key, s);
    CBQ_UNROLL
    for (int i = 0; i < m; ++i) {
      CBQ_UNROLL
      for (int half = 0; half < 2; ++half) add_row(i, half, unit, s[i], rows);
    }
    multiply_columns<dim, m, n>(rows.o, s, kv + tile);
  }

  /// Scores in powers of two, with ALiBi's bias.
  __device__ void add_bias(const Place& at, int key, float unit, float (&s)[m][n][4]) const {
    const int p = static_cast<int>(threadIdx.x) % 4 * 2;
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) {
      float bias[2];
      alibi(at.slope, key + 8 * j + p, key + 8 * j + p + 1, bias[0], bias[1]);
      CBQ_UNROLL
      for (int i = 0; i < 4 * m; ++i) {
        float& x = s[i / 4][j][i % 4];
        x = x * unit + bias[i % 2];
      }
    }
  }

  /// No query sees a later key.
  __device__ void mask(const Place& at, int key, float (&s)[m][n][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    // Query minus key of the lane's first element.
    const int ahead = at.warp_first + lane / 4 - key - lane % 4 * 2;
    CBQ_UNROLL
    for (int i = 0; i < m; ++i) {
      CBQ_UNROLL
      for (int j = 0; j < n; ++j) {
        CBQ_UNROLL
        for (int e = 0; e < 4; ++e)
          if (8 * j + e % 2 > ahead + 16 * i + e / 2 * 8) s[i][j][e] = -INFINITY;
      }
    }
  }

  /// Scores of one row become e^(s - largest so far); what was summed before is scaled to match.
  __device__ static void add_row(int i, int half, float unit, float (&s)[n][4], Rows& rows) {
    float largest = rows.largest[i][half];
    CBQ_UNROLL
    for (int j = 0; j < n; ++j)
      largest = ::fmaxf(largest, ::fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    largest = ::fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 1));
    largest = ::fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 2));
    // Finite from the first tile on: every query sees key 0.
    const float before = exp2_fast((rows.largest[i][half] - largest) * unit);
    rows.largest[i][half] = largest;
    float sum = rows.sum[i][half] * before;
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) {
      CBQ_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[j][e] = exp2_fast(s[j][e] * unit - largest * unit);
        sum += s[j][e];
      }
    }
    rows.sum[i][half] = sum;
    CBQ_UNROLL
    for (int j = 0; j < dim / 8; ++j) {
      rows.o[i][j][2 * half] *= before;
      rows.o[i][j][2 * half + 1] *= before;
    }
  }

  __device__ void store(const Place& at, Rows& rows, bf16* shared) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float unit = view.slopes != nullptr ? 1.0f : view.factor * log2_of_e;
    CBQ_UNROLL
    for (int i = 0; i < m; ++i) {
      CBQ_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float sum = sum_over(rows.sum[i][half], 4), inverse = 1.0f / sum;
        CBQ_UNROLL
        for (int j = 0; j < dim / 8; ++j) {
          rows.o[i][j][2 * half] *= inverse;
          rows.o[i][j][2 * half + 1] *= inverse;
        }
        const int query = at.warp_first + 16 * i + 8 * half + lane / 4;
        if (lane % 4 == 0 && query < view.tokens) {
          log_sum[(static_cast<int64_t>(at.element) * view.heads + at.head) * view.tokens + query] =
              rows.largest[i][half] * unit * log_of_2 + math::log(sum);
        }
      }
      const int first = at.warp_first + 16 * i;
      store_rows<dim>(rows.o[i], shared + 16 * i * stride,
                      o + (at.row + first) * at.width + at.head * dim, at.width,
                      view.tokens - first);
    }
  }
};

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
