// Causal attention on tensor cores, backward: scores are computed again in registers, twice, so
// that no two blocks add to the same gradient: results repeat without atomics. Reference kernel:
// kernels/attention.cu. With P = 2^(S - log_sum), dP = dO V^T, D = rowsum(dO * O):
//   AttentionRowDots   D
//   AttentionGradientQ over tiles of queries: dS = P * (dP - D), dQ = dS K / sqrt(dim)
//   AttentionGradientK over tiles of keys, with rows and columns exchanged (a warp has 16 keys):
//                      dV = P^T dO, dK = dS^T Q / sqrt(dim)
// Seven products where atomics (or partial sums of dQ in memory) would allow five. P and dS enter
// their products as bf16; all sums are f32. Per tile of 64 x 64, head size 128, and warp:
//   dQ      192 products of 16 x 8 x 16; 48 KiB of shared memory, 384 cycles of a multiprocessor
//   dK, dV  256 products; 72 KiB, 576 cycles
// A multiprocessor whose tensor cores do 2,500 operations a cycle this way would take 315 and 420
// cycles for the products, so shared memory should be what limits both. Unmeasured.
#pragma once

#include "kernels/attention/fused_tiles.h"

namespace cbq::tuned {

/// What both kernels read, and where a query's numbers lie: [batch * heads, tokens].
struct AttentionBackwardView {
  AttentionView of;
  const bf16* d_o;
  const float* log_sum;
  const float* dots;
};

#ifdef CBQ_KERNELS

/// D = rowsum(dO * O) for every query and head; 16 lanes have one.
template <int dim>
struct AttentionRowDots {
  static constexpr int threads = 256, resident_blocks = 4, rows = threads / 16;
  const bf16 *o, *d_o;
  float* dots;
  int heads, tokens;
  int64_t count;  // batch * tokens * heads

  __device__ void operator()() const {
    const int lane = static_cast<int>(threadIdx.x) % 16;
    const int64_t r = static_cast<int64_t>(blockIdx.x) * rows + threadIdx.x / 16;
    float sum = 0.0f;
    if (r < count && lane < dim / 8) {
      const Columns<bf16> a = load_columns(o + r * dim + lane * 8);
      const Columns<bf16> b = load_columns(d_o + r * dim + lane * 8);
      CBQ_UNROLL
      for (int j = 0; j < 8; ++j) sum += static_cast<float>(a.x[j]) * static_cast<float>(b.x[j]);
    }
    sum = sum_over(sum, 16);
    if (r >= count || lane != 0) return;
    const int64_t row = r / heads, head = r % heads;
    dots[(row / tokens * heads + head) * tokens + row % tokens] = sum;
  }
};

template <int dim>
struct AttentionGradientQ {
  static constexpr int threads = attention_threads, resident_blocks = 2;
  static constexpr int n = tile_rows / 8;
  static constexpr int stride = row_stride<dim>, tile = tile_rows * stride;
  static constexpr int shared_bytes = 6 * tile * 2;  // Q, dO, twice K and V
  AttentionBackwardView view;
  bf16* dq;
  int pairs;  // batch * heads

  struct Place {
    int head, first, warp_first;
    int64_t row, width, kv_width, statistic;
    float slope;
  };
  /// A warp's 16 queries: fragments of Q and dO, log-sum (in powers of two) and D of a lane's two.
  struct Rows {
    uint32_t q[dim / 16][1][4], d_o[dim / 16][1][4];
    float log_sum[2], dots[2];
    float dq[1][dim / 8][4] = {};
  };

  __device__ Place place() const {
    Place at;
    const AttentionView& of = view.of;
    const int pair = static_cast<int>(blockIdx.x) % pairs;
    at.head = pair % of.heads;
    at.first = (tiles_of(of.tokens) - 1 - static_cast<int>(blockIdx.x) / pairs) * tile_rows;
    at.warp_first = at.first + static_cast<int>(threadIdx.x) / 32 * 16;
    at.row = static_cast<int64_t>(pair / of.heads) * of.tokens;
    at.width = static_cast<int64_t>(of.heads) * dim;
    at.kv_width = static_cast<int64_t>(of.kv_heads) * dim;
    at.statistic = static_cast<int64_t>(pair) * of.tokens;
    at.slope = of.slopes == nullptr ? 0.0f : of.slopes[at.head];
    return at;
  }

  __device__ void operator()() const {
    const Place at = place();
    const int tokens = view.of.tokens;
    auto* shared_q = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* shared_kv = shared_q + 2 * tile;
    const int64_t from = at.row * at.width + at.head * dim;
    start_rows<dim, tile_rows>(shared_q, at.width, at.first, tokens, view.of.q + from,
                               view.d_o + from);
    start_keys(at, 0, shared_kv);
    bf16* own_q = shared_q + (at.warp_first - at.first) * stride;
    Rows rows;
    const int last = at.first / tile_rows;
    for (int t = 0; t <= last; ++t) {
      wait_copies<0>();
      __syncthreads();  // tile t is there, and the one before it read by all
      if (t < last) start_keys(at, t + 1, shared_kv + (t + 1) % 2 * 2 * tile);
      if (at.warp_first >= tokens) continue;
      if (t == 0) load_rows(at, own_q, own_q + tile, rows);
      add_keys(at, t * tile_rows, shared_kv + t % 2 * 2 * tile, rows);
    }
    if (at.warp_first >= tokens) return;
    CBQ_UNROLL
    for (int j = 0; j < dim / 8; ++j) {
      CBQ_UNROLL
      for (int e = 0; e < 4; ++e) rows.dq[0][j][e] *= view.of.factor;
    }
    store_rows<dim>(rows.dq[0], own_q, dq + from + at.warp_first * at.width, at.width,
                    tokens - at.warp_first);
  }

  __device__ void start_keys(const Place& at, int t, bf16* to) const {
    const AttentionView& of = view.of;
    const int64_t from = at.row * at.kv_width + at.head / of.group() * dim;
    start_rows<dim, tile_rows>(to, at.kv_width, t * tile_rows, of.tokens, of.k + from, of.v + from);
    commit_copies();
  }

  __device__ void load_rows(const Place& at, const bf16* q, const bf16* d_o, Rows& rows) const {
    CBQ_UNROLL
    for (int k = 0; k < dim / 16; ++k) {
      load_a(rows.q[k][0], q + 16 * k, stride);
      load_a(rows.d_o[k][0], d_o + 16 * k, stride);
    }
    CBQ_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = at.warp_first + 8 * half + static_cast<int>(threadIdx.x) % 32 / 4;
      const bool exists = query < view.of.tokens;
      rows.log_sum[half] = exists ? view.log_sum[at.statistic + query] * log2_of_e : INFINITY;
      rows.dots[half] = exists ? view.dots[at.statistic + query] : 0.0f;
    }
  }

  __device__ void add_keys(const Place& at, int key, const bf16* kv, Rows& rows) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, p = lane % 4 * 2;
    const float unit = view.of.factor * log2_of_e;
    float s[1][n][4] = {}, dp[1][n][4] = {};
    multiply_rows<dim, 1, n>(s, rows.q, kv);
    multiply_rows<dim, 1, n>(dp, rows.d_o, kv + tile);
    const int ahead = at.warp_first + g - key - p;  // query minus key of the first element
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) {
      float bias[2] = {0.0f, 0.0f};
      if (view.of.slopes != nullptr)
        alibi(at.slope, key + 8 * j + p, key + 8 * j + p + 1, bias[0], bias[1]);
      CBQ_UNROLL
      for (int e = 0; e < 4; ++e) {
        const float power = s[0][j][e] * unit + bias[e % 2] - rows.log_sum[e / 2];
        const bool seen = 8 * j + e % 2 <= ahead + e / 2 * 8;
        const float probability = seen ? exp2_fast(power) : 0.0f;
        s[0][j][e] = probability * (dp[0][j][e] - rows.dots[e / 2]);
      }
    }
    multiply_columns<dim, 1, n>(rows.dq, s, kv);
  }
};

template <int dim>
struct AttentionGradientK {
  static constexpr int threads = attention_threads, resident_blocks = 2;
  static constexpr int n = tile_rows / 8;
  static constexpr int stride = row_stride<dim>, tile = tile_rows * stride;
  static constexpr int shared_bytes = 6 * tile * 2 + 4 * tile_rows * 4;
  AttentionBackwardView view;
  bf16 *dk, *dv;
  float *dk_parts, *dv_parts;  // [parts, batch * tokens, kv_heads * dim], where there are several
  int parts;                   // a group's query heads are divided into so many, each for a block
  int pairs;                   // batch * kv_heads * parts
  int64_t part_size;           // batch * tokens * kv_heads * dim

  struct Place {
    int element, kv, part, first, warp_first;
    int64_t row, width, kv_width;
    int first_tile, tiles;  // of queries
  };
  struct Sums {
    float dk[1][dim / 8][4] = {}, dv[1][dim / 8][4] = {};
  };
  /// Where shared memory has what: Q and dO twice, and log-sum and D of their queries.
  struct Shared {
    bf16 *k, *v, *q;
    float* statistics;
    __device__ bf16* queries(int step) const { return q + step % 2 * 2 * tile; }
    __device__ float* numbers(int step) const { return statistics + step % 2 * 2 * tile_rows; }
  };

  __device__ Place place() const {
    Place at;
    const AttentionView& of = view.of;
    int pair = static_cast<int>(blockIdx.x) % pairs;
    at.part = pair % parts;
    pair /= parts;
    at.kv = pair % of.kv_heads;
    at.element = pair / of.kv_heads;
    at.first_tile = static_cast<int>(blockIdx.x) / pairs;
    at.tiles = tiles_of(of.tokens) - at.first_tile;
    at.first = at.first_tile * tile_rows;
    at.warp_first = at.first + static_cast<int>(threadIdx.x) / 32 * 16;
    at.row = static_cast<int64_t>(at.element) * of.tokens;
    at.width = static_cast<int64_t>(of.heads) * dim;
    at.kv_width = static_cast<int64_t>(of.kv_heads) * dim;
    return at;
  }
  __device__ int head_of(const Place& at, int step) const {
    const int group = view.of.group();
    return at.kv * group + at.part * (group / parts) + step / at.tiles;
  }

  __device__ void operator()() const {
    const Place at = place();
    const AttentionView& of = view.of;
    auto* bytes = dynamic_shared();
    auto* rows = reinterpret_cast<bf16*>(bytes);
    const Shared shared{rows, rows + tile, rows + 2 * tile,
                        reinterpret_cast<float*>(bytes + 6 * tile * 2)};
    const int64_t from = at.row * at.kv_width + at.kv * dim;
    start_rows<dim, tile_rows>(shared.k, at.kv_width, at.first, of.tokens, of.k + from,
                               of.v + from);
    start_queries(at, 0, shared);
    bf16* own_k = shared.k + (at.warp_first - at.first) * stride;
    Sums sums;
    const int steps = of.group() / parts * at.tiles;
    for (int step = 0; step < steps; ++step) {
      wait_copies<0>();
      __syncthreads();  // this step's queries are there, and those before them read by all
      if (step + 1 < steps) start_queries(at, step + 1, shared);
      if (at.warp_first < of.tokens) add_queries(at, step, own_k, shared, sums);
    }
    if (at.warp_first < of.tokens) store(at, own_k, sums);
  }

  __device__ void start_queries(const Place& at, int step, const Shared& shared) const {
    const AttentionView& of = view.of;
    const int head = head_of(at, step);
    const int first = (at.first_tile + step % at.tiles) * tile_rows;
    const int64_t from = at.row * at.width + static_cast<int64_t>(head) * dim;
    bf16* to = shared.queries(step);
    start_rows<dim, tile_rows>(to, at.width, first, of.tokens, of.q + from, view.d_o + from);
    // Half of the threads have a log-sum each, half a D; of queries that do not exist P becomes 0.
    const int t = static_cast<int>(threadIdx.x) % tile_rows;
    const bool is_log_sum = static_cast<int>(threadIdx.x) < tile_rows;
    const float* numbers = is_log_sum ? view.log_sum : view.dots;
    float* number = shared.numbers(step) + threadIdx.x;
    if (first + t < of.tokens) {
      const int64_t row = static_cast<int64_t>(at.element) * of.heads + head;
      copy_async(number, numbers + row * of.tokens + first + t);
    } else {
      *number = is_log_sum ? INFINITY : 0.0f;
    }
    commit_copies();
  }

  /// What the queries of a step give to the warp's keys.
  __device__ void add_queries(const Place& at, int step, const bf16* own_k, const Shared& shared,
                              Sums& sums) const {
    const bf16 *q = shared.queries(step), *d_o = q + tile;
    float p[1][n][4] = {}, ds[1][n][4] = {};
    multiply_rows<dim, 1, n>(p, own_k, q);
    multiply_rows<dim, 1, n>(ds, own_k + tile, d_o);
    differentiate(at, step, shared.numbers(step), p[0], ds[0]);
    multiply_columns<dim, 1, n>(sums.dv, p, d_o);
    multiply_columns<dim, 1, n>(sums.dk, ds, q);
  }

  /// S becomes P, dP becomes dS; both with a row for each key.
  __device__ void differentiate(const Place& at, int step, const float* numbers, float (&s)[n][4],
                                float (&dp)[n][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, column = lane % 4 * 2;
    const float unit = view.of.factor * log2_of_e;
    float bias[2] = {0.0f, 0.0f};
    if (view.of.slopes != nullptr) {
      const float slope = view.of.slopes[head_of(at, step)];
      alibi(slope, at.warp_first + g, at.warp_first + g + 8, bias[0], bias[1]);
    }
    // Query minus key of the lane's first element.
    const int ahead = step % at.tiles * tile_rows + column - (at.warp_first - at.first) - g;
    CBQ_UNROLL
    for (int j = 0; j < n; ++j) {
      CBQ_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int query = 8 * j + column + e % 2;
        const float power = s[j][e] * unit + bias[e / 2] - numbers[query] * log2_of_e;
        const bool seen = ahead + 8 * j + e % 2 >= e / 2 * 8;
        s[j][e] = seen ? exp2_fast(power) : 0.0f;
        dp[j][e] = s[j][e] * (dp[j][e] - numbers[tile_rows + query]);
      }
    }
  }

  __device__ void store(const Place& at, bf16* own_k, Sums& sums) const {
    CBQ_UNROLL
    for (int j = 0; j < dim / 8; ++j) {
      CBQ_UNROLL
      for (int e = 0; e < 4; ++e) sums.dk[0][j][e] *= view.of.factor;
    }
    const int64_t to = (at.row + at.warp_first) * at.kv_width + at.kv * dim;
    const int existing = view.of.tokens - at.warp_first;
    if (parts > 1) {
      store_part(sums.dk[0], dk_parts + at.part * part_size + to, at.kv_width, existing);
      store_part(sums.dv[0], dv_parts + at.part * part_size + to, at.kv_width, existing);
      return;
    }
    store_rows<dim>(sums.dk[0], own_k, dk + to, at.kv_width, existing);
    store_rows<dim>(sums.dv[0], own_k + tile, dv + to, at.kv_width, existing);
  }

  /// As it is, in f32: four lanes fill a sector of 32 bytes.
  __device__ static void store_part(const float (&c)[dim / 8][4], float* to, int64_t width,
                                    int existing) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, p = lane % 4 * 2;
    CBQ_UNROLL
    for (int j = 0; j < dim / 8; ++j) {
      CBQ_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int row = g + e / 2 * 8;
        if (row < existing) to[row * width + 8 * j + p + e % 2] = c[j][e];
      }
    }
  }
};

/// The parts of a gradient added up in their order, and rounded once.
struct AttentionSumParts {
  const float* parts;
  bf16* sum;
  int64_t size;
  int count;
  CBQ_HD void operator()(int64_t i) const {
    float total = parts[i];
    for (int part = 1; part < count; ++part) total += parts[part * size + i];
    sum[i] = bf16(total);
  }
};

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
