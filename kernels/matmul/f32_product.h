// Matrix products in f32 on a CPU with vectors, without OpenBLAS: AVX-512 or AVX2 with FMA.
//
// OpenBLAS decides by the number of threads how it divides a product, and its last bits follow. To
// keep them, gemm.cpp has to cut by the shape alone, so that every part packs the same matrix
// again: a quarter of the time of products with 256 rows. Here the sum of an element has one order,
// which depends on k alone. Any division gives the same bytes, and one thread divides nothing.
//
// The scheme is that of Goto and van de Geijn (Anatomy of High-Performance Matrix Multiplication,
// ACM TOMS 34, 2008): k is cut into parts of at most `most_depth`; of such a part, rows of op(a)
// are copied where they follow each other (they stay in the second-level cache), 32 columns of
// op(b) are copied (they stay in the first), and a tile of 12 x 32 results is summed in registers.
#pragma once

#include <cstdint>

namespace cbq::kernels {

/// c = alpha op(a) op(b) + beta c in row-major order, as blas::gemm (kernels/matmul/blas.h): op(a)
/// [m, k], op(b) [k, n], c [m, n]; lda, ldb, ldc are the distances between rows. With beta = 0 c is
/// not read.
struct F32Product {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  float alpha;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float beta;
  float* c;
  int64_t ldc;
};

/// "AVX-512", "AVX2", or nullptr where this processor has neither.
const char* f32_product_vectors();

/// Whether f32_product() does a product of this shape: this processor has the vectors, CBQ_FAST=0
/// is not set, and it is faster than OpenBLAS, which has kernels of its own for one to three rows
/// and for small matrices that need not be transposed.
bool f32_product_takes(int64_t m, int64_t n, int64_t k, bool transpose_b);

/// Divisions of a product between columns lie at multiples of this: all but a result's last columns
/// then fill whole vectors.
constexpr int64_t f32_product_columns = 32;

/// Serial. c_ij = sum over the parts of k of fl(alpha s_ij), where s_ij is the sum of one part, in
/// the order of k, by fused multiply-adds. Relative error of an element: about k 2^-24 of sum_l
/// |a_il b_lj|. The caller has looked at f32_product_vectors().
void f32_product(const F32Product& product);

}  // namespace cbq::kernels
