// The two products of OpenBLAS that this project calls, loaded when the first one is asked for.
//
// OpenBLAS maps a buffer of 128 MiB of address space (x86-64) for each thread that is in a product,
// and one for each of its own threads already while it is loaded. Where a mapping is refused
// (`ulimit -v`, `ulimit -d`, strict overcommit) it tries again for ever. Linked in the usual way it
// would do so before main, in --version as well. So it is loaded late and with one thread of its
// own (gemm.cpp divides the work), after a look at whether there is room, and it maps all buffers
// it will ever need at once: no later product can meet a refusal.
#pragma once

#include <cstdint>
#include <string>

namespace cbq::kernels::blas {

/// To be called outside a parallel region before gemm(). Makes room for as many products at a time
/// as omp_get_max_threads(); where OpenBLAS or the address space has room for fewer, the number of
/// OpenMP threads is reduced to that, with a notice. Does nothing when this has been done.
/// Throws std::runtime_error when OpenBLAS cannot be loaded, or there is no room for one product.
void load();

/// The processor that OpenBLAS chose its inner loops for, and the library's own description of
/// itself ("SkylakeX, OpenBLAS 0.3.21 ..."): other loops, and other versions, give other last bits.
/// Loads the library; throws as load() does.
std::string library_name();

/// c = alpha op(a) op(b) + beta c in row-major order: op(a) [m, k], op(b) [k, n], c [m, n]; lda,
/// ldb and ldc are the distances between rows. Serial.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
          const float* a, int64_t lda, const float* b, int64_t ldb, double beta, float* c,
          int64_t ldc);
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
          const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
          int64_t ldc);

}  // namespace cbq::kernels::blas
