// Fake quantization of tokens on CUDA, in one pass with the norm or function before it. Reference
// kernel: quant/token_rows.h, whose arithmetic this repeats operation by operation; sums over a row
// are taken in another order.
//
// A block holds one row in registers, eight neighbouring columns per thread and step: the row is
// read once, in 16-byte loads of bf16, and what waits between norm, range and codes waits there.
// Bytes per element of bf16, k quantizers behind a norm:
//   forward    2 read, 2 k written;           step by step 4 + 4 k
//   backward   2 k + 2 read, 2 written;       step by step 12 k
// where step by step a row's second reading, of which there are 2 k + 2, comes from a cache.
// Weights of the norm come from the caches. y is not kept: backward computes it again, 2 to 40
// operations. Instructions per element and quantizer: some 8 forward (a quotient, rounding, clamp),
// 13 backward. Unmeasured: no GPU has run it yet (docs/life-of-an-op.md, "Tuned kernels").
#pragma once

#include "kernels/launch/tuned.h"

namespace cbq::tuned {

#ifdef CBQ_KERNELS

/// Blocks that share a multiprocessor, from the registers that hold a thread's part of the row: 64,
/// 80 or 128 registers per thread, so that none goes to memory.
constexpr int blocks_of_row(int threads, int row_registers) {
  const int resident = row_registers <= 8 ? 1024 : row_registers <= 16 ? 768 : 512;
  return resident / threads;
}

/// Eight numbers rounded to T.
template <class T>
__device__ Columns<T> to_columns(const float (&x)[lane_columns]) {
  Columns<T> y;
  store_columns(y.x, x);
  return y;
}

/// A thread's columns of a row: its eight of every step. View is quant's PrologueView.
template <class View, int threads, int steps>
struct RowPart {
  using Prologue = typename View::Prologue;
  using T = typename Prologue::Element;
  using Row = Columns<T>[steps];

  CBQ_HD static int column(int step) {
    return (step * threads + static_cast<int>(threadIdx.x)) * lane_columns;
  }

  __device__ static void load(const T* row, int n, Row& x) {
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      x[p] = column(p) < n ? load_columns(row + column(p)) : Columns<T>{};
    }
  }

  /// One of the sums that make a norm's numbers.
  template <int pass>
  __device__ static void measure(const Row& x, int n, float eps,
                                 typename Prologue::Statistics& of) {
    float sum = 0.0f;
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      if (column(p) >= n) break;
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        Prologue::template gather<pass>(of, static_cast<float>(x[p].x[j]), sum);
      }
    }
    Prologue::template conclude<pass>(of, BlockRow::sum(sum), n, eps);
  }

  /// y, rounded, of eight elements.
  __device__ static Columns<T> value(const typename Prologue::Statistics& of, const Columns<T>& a,
                                     const Columns<T>& b, const Columns<T>& c) {
    float y[lane_columns];
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) {
      y[j] = Prologue::value(of, static_cast<float>(a.x[j]), static_cast<float>(b.x[j]),
                             static_cast<float>(c.x[j]));
    }
    return to_columns<T>(y);
  }

  /// Eight elements of the second and third operand, where the source has them.
  __device__ static Columns<T> second(const typename View::Operands& in, int c) {
    if constexpr (Prologue::operands >= 2) return load_columns(in.b + c);
    return {};
  }
  __device__ static Columns<T> third(const typename View::Operands& in, int c) {
    if constexpr (Prologue::operands >= 3) return load_columns(in.c + c);
    return {};
  }
};

/// u = y / s.
template <class T>
__device__ void in_steps(const Columns<T>& y, float s, float (&u)[lane_columns]) {
  float x[lane_columns];
  CBQ_UNROLL
  for (int j = 0; j < lane_columns; ++j) x[j] = static_cast<float>(y.x[j]);
  quotients<T>(x, s, u);
}

/// d = dx^ inside the clip range and 0 outside; returns the eight elements' share of dL/ds.
template <class T>
__device__ float through_codes(const Columns<T>& y, const Columns<T>& dy, float s, float z,
                               float largest, float (&d)[lane_columns]) {
  float u[lane_columns], ds = 0.0f;
  in_steps(y, s, u);
  CBQ_UNROLL
  for (int j = 0; j < lane_columns; ++j) {
    const float g = static_cast<float>(dy.x[j]), q = math::round_even(u[j]) + z;
    const float code = math::clamp(q, 0.0f, largest);
    const bool inside = q == code;
    d[j] = inside ? g : 0.0f;
    ds += g * (code - z - (inside ? u[j] : 0.0f));
  }
  return ds;
}

template <class View, class Readers, int block_threads, int steps>
struct QuantizeTokens {
  using Part = RowPart<View, block_threads, steps>;
  using Prologue = typename View::Prologue;
  using T = typename Prologue::Element;
  static constexpr int threads = block_threads;
  static constexpr int resident_blocks =
      blocks_of_row(threads, steps* lane_columns* static_cast<int>(sizeof(T)) / 4);
  View source;
  Readers readers;
  float* range;

  __device__ void operator()() const {
    BlockRow row;
    const int64_t r = blockIdx.x;
    const int n = static_cast<int>(source.n);
    const auto in = source.operands(r);
    typename Part::Row y;
    Part::load(in.a, n, y);
    typename Prologue::Statistics of;
    if constexpr (Prologue::passes > 0) Part::template measure<0>(y, n, source.eps, of);
    if constexpr (Prologue::passes > 1) Part::template measure<1>(y, n, source.eps, of);
    source.store(row, r, of);
    float largest = 0.0f, negated_smallest = 0.0f;
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      const int c = Part::column(p);
      if (c >= n) break;
      if constexpr (!Prologue::identity) {
        y[p] = Part::value(of, y[p], Part::second(in, c), Part::third(in, c));
      }
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        const float v = static_cast<float>(y[p].x[j]);
        largest = v > largest ? v : largest;
        negated_smallest = -v > negated_smallest ? -v : negated_smallest;
      }
    }
    largest = BlockRow::max(largest);
    negated_smallest = BlockRow::max(negated_smallest);
    if (threadIdx.x == 0) {
      range[2 * r] = negated_smallest;
      range[2 * r + 1] = largest;
    }
    for (int i = 0; i < readers.count; ++i) {
      const auto point = readers.at[i].grid(negated_smallest, largest);
      store(y, point.scale, point.zero_point, readers.at[i].rule.largest_code, n,
            readers.at[i].y + r * n);
    }
  }

  __device__ static void store(const typename Part::Row& y, float s, float z, float largest, int n,
                               T* out) {
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      const int c = Part::column(p);
      if (c >= n) break;
      float q[lane_columns];
      in_steps(y[p], s, q);
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        q[j] = s * (math::clamp(math::round_even(q[j]) + z, 0.0f, largest) - z);
      }
      store_columns(out + c, q);
    }
  }
};

/// Behind a norm: dL/dy gathers in registers, then its sums over the row, then dL/dx.
template <class View, class Readers, int block_threads, int steps>
struct QuantizeTokensNormBackward {
  using Part = RowPart<View, block_threads, steps>;
  using Prologue = typename View::Prologue;
  using T = typename Prologue::Element;
  static constexpr int threads = block_threads;
  static constexpr int resident_blocks =
      blocks_of_row(threads, 2 * steps * lane_columns * static_cast<int>(sizeof(T)) / 4);
  View source;
  Readers readers;
  const float* range;
  T* dx;          // or nullptr
  float* d_clip;  // [readers, rows]
  int64_t rows;

  __device__ void operator()() const {
    const int64_t r = blockIdx.x;
    const int n = static_cast<int>(source.n);
    const auto in = source.operands(r);
    const auto of = source.measured(r);
    typename Part::Row x, g{};
    Part::load(in.a, n, x);
    for (int i = 0; i < readers.count; ++i) {
      const auto point = readers.at[i].grid(range[2 * r], range[2 * r + 1]);
      float ds = 0.0f;
      CBQ_UNROLL
      for (int p = 0; p < steps; ++p) {
        const int c = Part::column(p);
        if (c >= n) break;
        const Columns<T> y = Part::value(of, x[p], Part::second(in, c), Part::third(in, c));
        float d[lane_columns];
        ds += through_codes(y, load_columns(readers.at[i].dy + r * n + c), point.scale,
                            point.zero_point, readers.at[i].rule.largest_code, d);
        CBQ_UNROLL
        for (int j = 0; j < lane_columns; ++j) {
          if (i > 0) d[j] = static_cast<float>(g[p].x[j]) + d[j];
        }
        g[p] = to_columns<T>(d);
      }
      ds = BlockRow::sum(ds);
      if (threadIdx.x == 0) d_clip[i * rows + r] = ds * point.scale;
    }
    if (dx != nullptr) finish(in, of, x, g, n, dx + r * n);
  }

  __device__ static void finish(const typename View::Operands& in,
                                const typename Prologue::Statistics& of,
                                const typename Part::Row& x, const typename Part::Row& g, int n,
                                T* out) {
    float first = 0.0f, second = 0.0f;
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      const int c = Part::column(p);
      if (c >= n) break;
      const Columns<T> b = Part::second(in, c);
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        Prologue::add_sums(of, static_cast<float>(x[p].x[j]), static_cast<float>(b.x[j]),
                           static_cast<float>(g[p].x[j]), first, second);
      }
    }
    first = BlockRow::sum(first);
    if constexpr (Prologue::sums > 1) second = BlockRow::sum(second);
    const auto mean = Prologue::means(of, first, second, n);
    CBQ_UNROLL
    for (int p = 0; p < steps; ++p) {
      const int c = Part::column(p);
      if (c >= n) break;
      const Columns<T> b = Part::second(in, c);
      float d[lane_columns];
      CBQ_UNROLL
      for (int j = 0; j < lane_columns; ++j) {
        d[j] = Prologue::gradient(of, mean, static_cast<float>(x[p].x[j]),
                                  static_cast<float>(b.x[j]), static_cast<float>(g[p].x[j]));
      }
      store_columns(out + c, d);
    }
  }
};

/// Behind a function of the element, one quantizer: nothing waits for a sum, so a row of any length
/// goes by.
template <class View, class OutputQuantizer>
struct QuantizeTokensElementBackward {
  static constexpr int threads = 256;
  static constexpr int resident_blocks = 4;
  using Part = RowPart<View, threads, 1>;
  using Prologue = typename View::Prologue;
  using T = typename Prologue::Element;
  View source;
  OutputQuantizer reader;
  const float* range;
  T* dx;        // or nullptr
  T* d_second;  // likewise
  float* d_clip;

  __device__ void operator()() const {
    const int64_t r = blockIdx.x;
    const int n = static_cast<int>(source.n);
    const auto in = source.operands(r);
    const auto point = reader.grid(range[2 * r], range[2 * r + 1]);
    float ds = 0.0f;
    for (int c = Part::column(0); c < n; c += threads * lane_columns) {
      const Columns<T> a = load_columns(in.a + c), b = Part::second(in, c);
      float d[lane_columns];
      ds += through_codes(Part::value({}, a, b, {}), load_columns(reader.dy + r * n + c),
                          point.scale, point.zero_point, reader.rule.largest_code, d);
      if (dx != nullptr) store(a, b, d, r * n + c);
    }
    ds = BlockRow::sum(ds);
    if (threadIdx.x == 0) d_clip[r] = ds * point.scale;
  }

  __device__ void store(const Columns<T>& a, const Columns<T>& b, float (&d)[lane_columns],
                        int64_t at) const {
    float e[lane_columns];
    CBQ_UNROLL
    for (int j = 0; j < lane_columns; ++j) {
      const float u = static_cast<float>(a.x[j]), v = static_cast<float>(b.x[j]);
      if constexpr (Prologue::second_is_tensor) e[j] = Prologue::second_gradient(u, v, d[j]);
      d[j] = Prologue::gradient({}, {}, u, v, d[j]);
    }
    store_columns(dx + at, d);
    if constexpr (Prologue::second_is_tensor) store_columns(d_second + at, e);
  }
};

#endif  // CBQ_KERNELS

}  // namespace cbq::tuned
