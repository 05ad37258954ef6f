#include "tensor/storage.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/device_error.h"
#include "tensor/device_memory.h"
#include "tensor/device_profile.h"
#include "tensor/error.h"
#include "tensor/memory_pool.h"
#include "tensor/recording.h"
#include "tensor/stream.h"

namespace cbq {
namespace {

// Freed blocks are kept by size class and handed out again. A training or reconstruction step asks
// for the same sizes every time, so after the first step no step reaches the system allocator: on
// the CPU that avoids page faults, on CUDA the synchronization inside cudaMalloc.
// Under ASan (CBQ_DEBUG) nothing is kept, so that use after free is seen.
#ifdef CBQ_DEBUG
constexpr bool keep_freed_blocks = false;
#else
constexpr bool keep_freed_blocks = true;
#endif

/// While a stream of this thread is captured, the CUDA calls below would make the capture invalid.
/// A new block is harmless; giving blocks back waits for the device, and has to wait itself.
class CaptureBreak {
 public:
#ifdef CBQ_CUDA
  explicit CaptureBreak(Device device) : on_(device.is_cuda()) {
    if (on_) cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  ~CaptureBreak() {
    if (on_) cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  static bool capturing(Device device) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return device.is_cuda() && cudaStreamIsCapturing(current_stream(), &status) == cudaSuccess &&
           status != cudaStreamCaptureStatusNone;
  }

 private:
  bool on_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
#else
  explicit CaptureBreak(Device) {}
  static bool capturing(Device) { return false; }
#endif
};

class Allocator {
 public:
  explicit Allocator(Device device) : device_(device) {}

  void* allocate(int64_t bytes) {
    const int64_t size = block_size(bytes);
    std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (auto& free_blocks = free_[size]; !free_blocks.empty()) {
      block = free_blocks.back();
      free_blocks.pop_back();
    } else {
      block = system_allocate(size);
      const int64_t cached = statistics_.reserved_bytes - statistics_.current_bytes;
      if (block == nullptr && !CaptureBreak::capturing(device_)) {
        release_cached_locked();  // give back what is cached, once, before giving up
        block = system_allocate(size);
      }
      if (block == nullptr) {
        const DeviceMemory memory = device_memory(device_);
        fail(describe({bytes, statistics_.current_bytes, cached, memory.free, memory.total},
                      device_));
      }
      statistics_.reserved_bytes += size;
      statistics_.system_allocations += 1;
    }
    statistics_.current_bytes += size;
    statistics_.allocations += 1;
    if (statistics_.current_bytes > statistics_.peak_bytes) {
      statistics_.peak_bytes = statistics_.current_bytes;
    }
    return block;
  }

  void release(void* block, int64_t bytes) noexcept {
    const int64_t size = block_size(bytes);
    std::lock_guard lock(mutex_);
    statistics_.current_bytes -= size;
    if (keep_freed_blocks) {
      free_[size].push_back(block);
    } else {
      system_free(block);
      statistics_.reserved_bytes -= size;
    }
  }

  MemoryStatistics statistics() {
    std::lock_guard lock(mutex_);
    return statistics_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    statistics_.peak_bytes = statistics_.current_bytes;
  }
  void release_cached() {
    std::lock_guard lock(mutex_);
    release_cached_locked();
  }

 private:
  void release_cached_locked() {
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) system_free(block);
      statistics_.reserved_bytes -= size * static_cast<int64_t>(blocks.size());
      blocks.clear();
    }
  }

  void* system_allocate(int64_t bytes) const {
#ifdef CBQ_CUDA
    if (device_.is_cuda()) {
      int current = -1;
      cuda_check(cudaGetDevice(&current), "cudaGetDevice");
      // Elsewhere it would be memory that the kernels of this thread's stream cannot reach.
      check(current == device_.index, "a tensor on ", name_of(device_),
            " while this thread works on ", name_of(Device::cuda(current)),
            "; device_from_name() chooses the device");
      const CaptureBreak relaxed(device_);
      void* block = nullptr;
      if (cudaMalloc(&block, static_cast<size_t>(bytes)) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
      }
      return block;
    }
#endif
    return std::aligned_alloc(64, static_cast<size_t>(bytes));
  }

  void system_free(void* block) const noexcept {
#ifdef CBQ_CUDA
    if (device_.is_cuda()) {
      const CaptureBreak relaxed(device_);
      cudaFree(block);
      return;
    }
#endif
    std::free(block);
  }

  Device device_;
  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<void*>> free_;
  MemoryStatistics statistics_;
};

Allocator& allocator(Device device) {
  // Never destroyed: tensors in static storage may outlive any order of destruction.
  if (!device.is_cuda()) {
    static Allocator* cpu = new Allocator(Device::cpu());
    return *cpu;
  }
  static std::mutex mutex;
  static auto* cuda = new std::unordered_map<int, Allocator*>;
  std::lock_guard lock(mutex);
  Allocator*& slot = (*cuda)[device.index];
  if (slot == nullptr) slot = new Allocator(device);
  return *slot;
}

}  // namespace

// Four classes per power of two: at most 25 % of a block is unused.
int64_t block_size(int64_t bytes) {
  if (bytes < 1) bytes = 1;
  int64_t step = 64;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* allocate_block(int64_t bytes, Device device) { return allocator(device).allocate(bytes); }

void release_block(void* block, int64_t bytes, Device device) noexcept {
  allocator(device).release(block, bytes);
}

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (MemoryPool* pool = MemoryPool::current(); pool && pool->blocks()->device() == device) {
    data_ = pool->blocks()->allocate(bytes);
    pool_ = pool->blocks();
  } else {
    data_ = allocate_block(bytes, device);
  }
}

Storage::~Storage() {
#ifdef CBQ_CUDA
  if (page_locked_) {
    cudaFreeHost(data_);
    return;
  }
#endif
  if (pool_) {
    pool_->release(data_, bytes_);
  } else {
    release_block(data_, bytes_, device_);
  }
}

std::shared_ptr<Storage> Storage::page_locked(int64_t bytes) {
#ifdef CBQ_CUDA
  if (cuda_device_count() > 0) {
    std::shared_ptr<Storage> storage(new Storage);
    storage->bytes_ = bytes;
    const auto size = static_cast<size_t>(bytes < 1 ? 1 : bytes);
    if (cudaHostAlloc(&storage->data_, size, cudaHostAllocDefault) == cudaSuccess) {
      storage->page_locked_ = true;
      return storage;
    }
    cudaGetLastError();
    storage->bytes_ = 0;
    storage->data_ = allocate_block(0, Device::cpu());  // what the destructor gives back
    notice_once(
        "page-locked host memory is short: calibration streams lie in ordinary memory, and copying "
        "them does not overlap with the steps (ulimit -l, or fewer --segments)");
  }
#endif
  return std::make_shared<Storage>(bytes, Device::cpu());
}

namespace {
constinit thread_local int64_t host_transfer_count = 0;
}
int64_t host_transfers() { return host_transfer_count; }
void count_host_transfer() { ++host_transfer_count; }

MemoryStatistics memory_statistics(Device device) { return allocator(device).statistics(); }
void reset_peak(Device device) { allocator(device).reset_peak(); }
void release_cached(Device device) { allocator(device).release_cached(); }

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
    if (Recording* recording = Recording::active()) {
      recording->add([=] { copy_bytes(to, to_device, from, from_device, bytes); });
      return;
    }
    std::memcpy(to, from, static_cast<size_t>(bytes));
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
  if (Recording* recording = Recording::active()) {
    recording->add([=] { zero_bytes(at, device, bytes); });
    return;
  }
  std::memset(at, 0, static_cast<size_t>(bytes));
}

}  // namespace cbq
