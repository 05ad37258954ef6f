// The CUDA stream on which this process queues its work, and the check around CUDA calls.
// Empty in a build without CUDA.
#pragma once

#ifdef CBQ_CUDA
#include <cuda_runtime_api.h>

#include "tensor/error.h"

namespace cbq {

/// A CUDA call failed; the message names the call, CUDA's own reason, and what to do about it.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws the CudaError of a call that did not succeed.
[[noreturn]] void throw_cuda_error(cudaError_t status, const char* call);

inline void cuda_check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw_cuda_error(status, call);
}

/// One stream per thread of the host; all kernels, copies and library calls go through it.
cudaStream_t current_stream();

}  // namespace cbq
#endif
