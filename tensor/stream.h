// The CUDA stream on which this process queues its work, and the check around CUDA calls.
// Empty in a build without CUDA.
#pragma once

#ifdef CBQ_CUDA
#include <cuda_runtime_api.h>

#include "tensor/error.h"

namespace cbq {

/// A CUDA call failed; the message names the call and CUDA's own reason.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void cuda_check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw CudaError(concat(call, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status)));
  }
}

/// One stream per thread of the host; all kernels, copies and library calls go through it.
cudaStream_t current_stream();

}  // namespace cbq
#endif
