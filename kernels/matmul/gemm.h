// A matrix product as the libraries are asked for it: between the functions of ops.h, which check
// their arguments, and OpenBLAS (gemm.cpp) or cuBLASLt (gemm_cuda.cpp).
#pragma once

#include "kernels/ops.h"

namespace cbq::kernels {

/// Equally spaced row-major matrices: element (r, c) of matrix i lies `i * stride + r * ld + c`
/// elements behind `data`.
struct StridedMatrix {
  void* data;
  int64_t ld, stride;
};

/// c_i = alpha op(a_i) op(b_i) + beta c_i for i < batch: op(a) [m, k], op(b) [k, n], c [m, n]. a
/// and b hold `operand` numbers, c `result` ones; sums run in the accumulation type of `operand`.
struct Product {
  int64_t m, n, k, batch;
  Trans ta, tb;
  double alpha, beta;
  Dtype operand, result;
  StridedMatrix a, b, c;
};

#ifdef CBQ_CUDA
/// Queues the product on the current stream.
void cuda_product(const Product& p, Device device);
#endif

}  // namespace cbq::kernels
