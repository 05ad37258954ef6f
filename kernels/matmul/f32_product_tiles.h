// The loops of f32_product.h for one kind of vectors. Included by f32_product_avx512.cpp and
// f32_product_avx2.cpp alone, which are compiled for their processors: so nothing from the standard
// library is used here whose copies the linker could take for the rest of the program.
#pragma once

#include "kernels/matmul/f32_product.h"

namespace cbq::kernels {
namespace {

/// `Of` has the types Vector (floats) and Lanes (integers), load() and store() at any address, and
/// the sizes: `width` floats in a vector, tiles of `rows` x `vectors` vectors. So many sums and a
/// few operands fill the registers.
template <class Of>
struct F32Tiles {
  using Vector = typename Of::Vector;
  using Lanes = typename Of::Lanes;
  static constexpr int width = Of::width, rows = Of::rows, vectors = Of::vectors;
  static constexpr int columns = width * vectors;
  // A panel of b fills half of a first-level cache of 48 KiB (AVX2: 32 KiB), a block of a fits into
  // a second-level cache of 512 KiB.
  static constexpr int64_t most_depth = 256, most_rows = 384;
  static constexpr int64_t room = most_depth * columns + (most_rows + rows) * most_depth + width;

  /// Part `part` of `count` nearly equal parts begins here.
  static int64_t begin_of(int64_t extent, int64_t part, int64_t count) {
    return extent * part / count;
  }
  static int64_t parts_of(int64_t extent, int64_t most) { return (extent + most - 1) / most; }

  /// c [r, v vectors] = alpha a^T b + beta c: a [depth, rows], b [depth, columns].
  template <int r, int v>
  static void tile(const float* __restrict a, const float* __restrict b, int64_t depth,
                   float* __restrict c, int64_t ldc, float alpha, float beta) {
    Vector sum[r][v];
#pragma GCC unroll 16
    for (int i = 0; i < r; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) {
        sum[i][j] = Vector{};
        __builtin_prefetch(c + i * ldc + j * width, 1);
      }
    }
    for (int64_t l = 0; l < depth; ++l) {
      Vector of_b[v];
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) {
        of_b[j] = Of::load(b + l * columns + j * width);
      }
#pragma GCC unroll 16
      for (int i = 0; i < r; ++i) {
        const float x = a[l * rows + i];
#pragma GCC unroll 4
        for (int j = 0; j < v; ++j) sum[i][j] += x * of_b[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < r; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < v; ++j) {
        float* at = c + i * ldc + j * width;
        const Vector y = alpha * sum[i][j];
        Of::store(at, beta == 0.0F ? y : y + beta * Of::load(at));
      }
    }
  }

  using Tile = void (*)(const float*, const float*, int64_t, float*, int64_t, float, float);

  /// The tile of `count` rows (1 to `rows`), since the numbers of rows are known when compiling.
  template <int v, int r = rows>
  static Tile tile_of(int64_t count) {
    if constexpr (r > 1) {
      if (count < r) return tile_of<v, r - 1>(count);
    }
    return tile<r, v>;
  }

  /// Step s of a transposition in log2(width) steps: elements change places between vectors whose
  /// numbers differ in bit s.
  template <int s>
  static void exchange(Vector (&x)[width]) {
    Lanes low, high;
    for (int j = 0; j < width; ++j) {
      low[j] = (j & s) != 0 ? width + j - s : j;
      high[j] = (j & s) != 0 ? width + j : j + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) {
      if ((i & s) != 0) continue;
      const Vector first = x[i], second = x[i + s];
      x[i] = __builtin_shuffle(first, second, low);
      x[i + s] = __builtin_shuffle(first, second, high);
    }
    if constexpr (2 * s < width) exchange<2 * s>(x);
  }

  /// to[l * stride + j] = from[j * ld + l] for `width` values of l and of j. Rows of `from` beyond
  /// `last` are taken for row `last`. Where the stride is less than `width`, a row of `to` is
  /// written over the end of the one before.
  static void transpose(const float* from, int64_t ld, int64_t last, float* to, int64_t stride) {
    Vector x[width];
#pragma GCC unroll 16
    for (int j = 0; j < width; ++j) {
      const float* row = from + (j < last ? j : last) * ld;
      __builtin_prefetch(row + 2 * width);
      x[j] = Of::load(row);
    }
    exchange<1>(x);
#pragma GCC unroll 16
    for (int l = 0; l < width; ++l) Of::store(to + l * stride, x[l]);
  }

  /// to [depth, columns] = `count` columns of op(b); what is beyond them is never stored in c.
  static void copy_b(const F32Product& p, int64_t column, int64_t first, int64_t depth,
                     int64_t count, float* to) {
    if (p.transpose_b) {
      const float* from = p.b + column * p.ldb + first;
      int64_t l = 0;
      for (; l + width <= depth; l += width) {
        for (int64_t j = 0; j < count; j += width) {
          transpose(from + j * p.ldb + l, p.ldb, count - 1 - j, to + l * columns + j, columns);
        }
      }
      for (; l < depth; ++l) {
        for (int64_t j = 0; j < count; ++j) to[l * columns + j] = from[j * p.ldb + l];
      }
      return;
    }
    const float* from = p.b + first * p.ldb + column;
    for (int64_t l = 0; l < depth; ++l, from += p.ldb, to += columns) {
      if (count < columns) {
        for (int64_t j = 0; j < count; ++j) to[j] = from[j];
        continue;
      }
      __builtin_prefetch(from + 8 * p.ldb);
      __builtin_prefetch(from + 8 * p.ldb + columns - 1);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        Of::store(to + v * width, Of::load(from + v * width));
      }
    }
  }

  /// Rows [row, row + count) of op(a), tile after tile: to [tiles][depth, rows].
  static void copy_a(const F32Product& p, int64_t row, int64_t count, int64_t first, int64_t depth,
                     float* to) {
    const int64_t tiles = parts_of(count, rows);
    if (!p.transpose_a) {
      for (int64_t t = 0; t < tiles; ++t, to += depth * rows) {
        const int64_t begin = begin_of(count, t, tiles),
                      size = begin_of(count, t + 1, tiles) - begin;
        const float* from = p.a + (row + begin) * p.lda + first;
        int64_t l = 0;
        for (; l + width <= depth; l += width) {
          transpose(from + l, p.lda, size - 1, to + l * rows, rows);
        }
        for (; l < depth; ++l) {
          for (int64_t i = 0; i < size; ++i) to[l * rows + i] = from[i * p.lda + l];
        }
      }
      return;
    }
    // 16 of a's rows at a time, so that each is read from its beginning to its end.
    for (int64_t l0 = 0; l0 < depth; l0 += 16) {
      const int64_t l1 = l0 + 16 < depth ? l0 + 16 : depth;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t begin = begin_of(count, t, tiles),
                      size = begin_of(count, t + 1, tiles) - begin;
        for (int64_t l = l0; l < l1; ++l) {
          const float* from = p.a + (first + l) * p.lda + row + begin;
          float* at = to + (t * depth + l) * rows;
          if (row + begin + rows <= p.m) {  // no tile reads what is too much
            __builtin_memcpy(at, from, rows * sizeof(float));
          } else {
            for (int64_t i = 0; i < size; ++i) at[i] = from[i];
          }
        }
      }
    }
  }

  static void block(const F32Product& p, int64_t row, int64_t count, int64_t depth, int64_t column,
                    int64_t width_left, float beta, const float* a, const float* b) {
    const int64_t tiles = parts_of(count, rows);
    const bool half = vectors > 1 && width_left <= width;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = begin_of(count, t, tiles), size = begin_of(count, t + 1, tiles) - begin;
      const Tile run = half ? tile_of<1>(size) : tile_of<vectors>(size);
      const float* of_a = a + t * depth * rows;
      float* c = p.c + (row + begin) * p.ldc + column;
      if (width_left >= columns || (half && width_left == width)) {
        run(of_a, b, depth, c, p.ldc, p.alpha, beta);
        continue;
      }
      // The last columns fill no vector: the tile works on a copy.
      alignas(64) float copy[rows * columns];
      if (beta != 0.0F) move(c, p.ldc, copy, columns, size, width_left);
      run(of_a, b, depth, copy, columns, p.alpha, beta);
      move(copy, columns, c, p.ldc, size, width_left);
    }
  }

  static void move(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                   int64_t count, int64_t size) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < size; ++j) to[i * to_stride + j] = from[i * from_stride + j];
    }
  }

  /// `room` floats at an address that is a multiple of 64.
  static void run(const F32Product& p, float* panel) {
    float* of_a = panel + most_depth * columns;
    const int64_t depths = parts_of(p.k, most_depth), blocks = parts_of(p.m, most_rows);
    for (int64_t d = 0; d < depths; ++d) {
      const int64_t first = begin_of(p.k, d, depths);
      const int64_t depth = begin_of(p.k, d + 1, depths) - first;
      const float beta = d == 0 ? p.beta : 1.0F;
      for (int64_t r = 0; r < blocks; ++r) {
        const int64_t row = begin_of(p.m, r, blocks), count = begin_of(p.m, r + 1, blocks) - row;
        copy_a(p, row, count, first, depth, of_a);
        for (int64_t column = 0; column < p.n; column += columns) {
          const int64_t left = p.n - column < columns ? p.n - column : columns;
          copy_b(p, column, first, depth, left, panel);
          block(p, row, count, depth, column, left, beta, of_a, panel);
        }
      }
    }
  }
};

}  // namespace
}  // namespace cbq::kernels
