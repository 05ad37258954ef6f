#include "tensor/stream_copy.h"

#include <cstring>

#include "tensor/runtime/stream.h"

namespace cbq {

#ifdef CBQ_CUDA
struct CopyQueue::Queue {
  Queue() {
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
    cuda_check(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming),
               "cudaEventCreateWithFlags");
    cuda_check(cudaEventCreateWithFlags(&computed, cudaEventDisableTiming),
               "cudaEventCreateWithFlags");
  }
  ~Queue() {
    if (stream != nullptr) cudaStreamSynchronize(stream);  // the buffers may go next
    if (copied != nullptr) cudaEventDestroy(copied);
    if (computed != nullptr) cudaEventDestroy(computed);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  cudaStream_t stream = nullptr;
  cudaEvent_t copied = nullptr, computed = nullptr;
};
#else
struct CopyQueue::Queue {};
#endif

CopyQueue::CopyQueue(Device device) : device_(device) {
#ifdef CBQ_CUDA
  if (device.is_cuda()) queue_ = std::make_unique<Queue>();
#endif
}

CopyQueue::~CopyQueue() = default;

void CopyQueue::copy(const Tensor& to, const Tensor& from) {
  check(to.shape() == from.shape() && to.dtype() == from.dtype(), "CopyQueue: ", from.dtype(),
        from.shape(), " into ", to.dtype(), to.shape());
  const auto bytes = static_cast<size_t>(to.bytes());
  if (bytes == 0) return;
#ifdef CBQ_CUDA
  if (queue_) {
    cuda_check(cudaMemcpyAsync(to.raw(), from.raw(), bytes, cudaMemcpyDefault, queue_->stream),
               "cudaMemcpyAsync");
    return;
  }
#endif
  std::memcpy(to.raw(), from.raw(), bytes);
}

void CopyQueue::current_waits() {
#ifdef CBQ_CUDA
  if (!queue_) return;
  cuda_check(cudaEventRecord(queue_->copied, queue_->stream), "cudaEventRecord");
  cuda_check(cudaStreamWaitEvent(current_stream(), queue_->copied, 0), "cudaStreamWaitEvent");
#endif
}

void CopyQueue::wait_for_current() {
#ifdef CBQ_CUDA
  if (!queue_) return;
  cuda_check(cudaEventRecord(queue_->computed, current_stream()), "cudaEventRecord");
  cuda_check(cudaStreamWaitEvent(queue_->stream, queue_->computed, 0), "cudaStreamWaitEvent");
#endif
}

}  // namespace cbq
