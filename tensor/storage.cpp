#include "tensor/storage.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/device_profile.h"
#include "tensor/error.h"
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

// Four classes per power of two: at most 25 % of a block is unused.
int64_t size_class(int64_t bytes) {
  int64_t step = 64;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

class Allocator {
 public:
  explicit Allocator(Device device) : device_(device) {}

  void* allocate(int64_t bytes) {
    const int64_t size = size_class(bytes < 1 ? 1 : bytes);
    std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (auto& free_blocks = free_[size]; !free_blocks.empty()) {
      block = free_blocks.back();
      free_blocks.pop_back();
    } else {
      block = system_allocate(size);
      if (block == nullptr) {  // give back what is cached, once, before giving up
        release_cached_locked();
        block = system_allocate(size);
      }
      if (block == nullptr) {
        fail("out of memory on ", name_of(device_), ": asked for ", bytes, " bytes with ",
             statistics_.current_bytes,
             " in use; a smaller window, fewer segments per step or a lower rank need less");
      }
      statistics_.reserved_bytes += size;
    }
    statistics_.current_bytes += size;
    statistics_.allocations += 1;
    if (statistics_.current_bytes > statistics_.peak_bytes) {
      statistics_.peak_bytes = statistics_.current_bytes;
    }
    return block;
  }

  void release(void* block, int64_t bytes) noexcept {
    const int64_t size = size_class(bytes < 1 ? 1 : bytes);
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

Storage::Storage(int64_t bytes, Device device)
    : data_(allocator(device).allocate(bytes)), bytes_(bytes), device_(device) {}

Storage::~Storage() { allocator(device_).release(data_, bytes_); }

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
  const OpTimer timer("copy", to_device.is_cuda() ? to_device : from_device);
  if (!to_device.is_cuda() && !from_device.is_cuda()) {
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
  static_cast<void>(device);
  std::memset(at, 0, static_cast<size_t>(bytes));
}

}  // namespace cbq
