#include "tensor/storage.h"

#include <cstring>

#include "tensor/error.h"
#include "tensor/runtime/cpu_recording.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/device_profile.h"
#include "tensor/runtime/memory_pool.h"
#include "tensor/runtime/notice.h"
#include "tensor/runtime/shapes_only.h"
#include "tensor/runtime/storage_allocator.h"
#include "tensor/runtime/stream.h"

namespace cbq {

// Four classes per power of two: at most 25 % of a block is unused.
int64_t block_size(int64_t bytes) {
  if (bytes < 1) bytes = 1;
  int64_t step = 64;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* allocate_block(int64_t bytes, Device device) { return Allocator::of(device).allocate(bytes); }

void release_block(void* block, int64_t bytes, Device device) noexcept {
  Allocator::of(device).release(block, bytes);
}

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (ShapesOnly::active()) return;  // data() stays null
  if (MemoryPool* pool = MemoryPool::current(); pool && pool->blocks()->device() == device) {
    data_ = pool->blocks()->allocate(bytes);
    pool_ = pool->blocks();
  } else {
    data_ = allocate_block(bytes, device);
  }
}

Storage::~Storage() {
  if (release_) {
    release_();
    return;
  }
  if (data_ == nullptr) return;
  if (page_locked_) {
    Allocator::page_locked().release(data_, bytes_);
  } else if (pool_) {
    pool_->release(data_, bytes_);
  } else {
    release_block(data_, bytes_, device_);
  }
}

std::shared_ptr<Storage> Storage::adopt(void* data, int64_t bytes, Device device,
                                        std::function<void()> release) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->data_ = data;
  storage->bytes_ = bytes;
  storage->device_ = device;
  storage->release_ = std::move(release);
  return storage;
}

std::shared_ptr<Storage> Storage::page_locked(int64_t bytes) {
  if (void* block = Allocator::page_locked().try_allocate(bytes)) {
    std::shared_ptr<Storage> storage(new Storage);
    storage->data_ = block;
    storage->bytes_ = bytes;
    storage->page_locked_ = true;
    return storage;
  }
  notice_once(
      "page-locked host memory is short: calibration streams lie in ordinary memory, and copying "
      "them does not overlap with the steps (ulimit -l, or fewer --segments)");
  return std::make_shared<Storage>(bytes, Device::cpu());
}

namespace {
constinit thread_local int64_t host_transfer_count = 0;
}
int64_t host_transfers() { return host_transfer_count; }
void count_host_transfer() { ++host_transfer_count; }

MemoryStatistics memory_statistics(Device device) { return Allocator::of(device).statistics(); }
MemoryStatistics page_locked_statistics() { return Allocator::page_locked().statistics(); }
void reset_peak(Device device) { Allocator::of(device).reset_peak(); }
void release_cached(Device device) {
  Allocator::of(device).release_cached();
  Allocator::page_locked().release_cached();
}

#ifdef CBQ_CUDA
cudaStream_t current_stream() {
  // The per-thread default stream would need a compile flag in every file; one explicit
  // non-blocking stream per host thread is visible in the code and can be captured into a graph.
  thread_local cudaStream_t stream = [] {
    cudaStream_t s = nullptr;
    cuda_check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return s;
  }();
  return stream;
}
#endif

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0) return;
  if (to_device != from_device) count_host_transfer();
  const OpTimer timer("copy", to_device.is_cuda() ? to_device : from_device);
  if (!to_device.is_cuda() && !from_device.is_cuda()) {
    run_or_record([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
    return;
  }
#ifdef CBQ_CUDA
  cuda_check(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, current_stream()),
      "cudaMemcpyAsync");
  // Between two device buffers stream order is enough; the host must be able to look at its side.
  if (!to_device.is_cuda() || !from_device.is_cuda()) synchronize(Device::cuda());
#else
  fail("copy_bytes: this binary was built without CUDA");
#endif
}

void zero_bytes(void* at, Device device, int64_t bytes) {
  if (bytes == 0) return;
  const OpTimer timer("zero", device);
#ifdef CBQ_CUDA
  if (device.is_cuda()) {
    cuda_check(cudaMemsetAsync(at, 0, static_cast<size_t>(bytes), current_stream()),
               "cudaMemsetAsync");
    return;
  }
#endif
  run_or_record([=] { std::memset(at, 0, static_cast<size_t>(bytes)); });
}

}  // namespace cbq
