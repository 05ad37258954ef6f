#include "tensor/runtime/storage_allocator.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <utility>

#include "tensor/error.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/device_memory.h"
#include "tensor/runtime/stream.h"

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
  CaptureBreak() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~CaptureBreak() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
#endif
};

#ifdef CBQ_CUDA
/// One answer for the process: a block goes back the way it came, also from a device that is lost.
bool can_lock_pages() {
  static const bool any = cuda_device_count() > 0;
  return any;
}

/// Of this thread's stream.
bool capturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return can_lock_pages() && cudaStreamIsCapturing(current_stream(), &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}
#else
bool capturing() { return false; }
#endif

/// Memory of the CPU. Blocks of 2 MiB and more ask for pages of that size, of which a pass over a
/// weight needs few where it would need a thousand of 4 KiB.
void* allocate_on_host(size_t bytes) {
  constexpr size_t line = 64;
#ifdef MADV_HUGEPAGE
  constexpr size_t large_page = size_t{2} << 20;
  if (bytes >= large_page) {
    void* block = nullptr;
    if (::posix_memalign(&block, large_page, bytes) != 0) return nullptr;
    ::madvise(block, bytes, MADV_HUGEPAGE);  // a wish: pages stay small where the kernel has none
    return block;
  }
#endif
  return std::aligned_alloc(line, bytes);
}

}  // namespace

Allocator& Allocator::of(Device device) {
  if (device == Device::cpu()) {
    static auto* cpu = new Allocator(Device::cpu(), Pages::ordinary);
    return *cpu;
  }
  static std::mutex mutex;
  // CUDA devices, and in tests further host memory that counts as a device of its own.
  static auto* others = new std::map<std::pair<bool, int>, Allocator*>;
  const std::lock_guard lock(mutex);
  Allocator*& slot = (*others)[{device.is_cuda(), device.index}];
  if (slot == nullptr) slot = new Allocator(device, Pages::ordinary);
  return *slot;
}

Allocator& Allocator::page_locked() {
  static auto* host = new Allocator(Device::cpu(), Pages::locked);
  return *host;
}

void* Allocator::allocate(int64_t bytes) {
  if (void* block = try_allocate(bytes)) return block;
  const MemoryStatistics own = statistics();
  const DeviceMemory memory = device_memory(device_);
  fail(describe(
      {bytes, own.current_bytes, own.reserved_bytes - own.current_bytes, memory.free, memory.total},
      device_));
}

void* Allocator::try_allocate(int64_t bytes) {
  const int64_t size = size_of_block(bytes);
  const std::lock_guard lock(mutex_);
  void* block = take(size);
  if (block == nullptr) return nullptr;
  statistics_.current_bytes += size;
  statistics_.allocations += 1;
  if (statistics_.current_bytes > statistics_.peak_bytes) {
    statistics_.peak_bytes = statistics_.current_bytes;
  }
  return block;
}

void* Allocator::take(int64_t size) {
  if (auto& free_blocks = free_[size]; !free_blocks.empty()) {
    void* block = free_blocks.back();
    free_blocks.pop_back();
    return block;
  }
  void* block = system_allocate(size);
  if (block == nullptr && !capturing()) {
    release_cached_locked();  // give back what is cached, once, before giving up
    block = system_allocate(size);
  }
  if (block == nullptr) return nullptr;
  statistics_.reserved_bytes += size;
  statistics_.system_allocations += 1;
  return block;
}

void Allocator::release(void* block, int64_t bytes) noexcept {
  const int64_t size = size_of_block(bytes);
  const std::lock_guard lock(mutex_);
  statistics_.current_bytes -= size;
  if (keep_freed_blocks) {
    free_[size].push_back(block);
  } else {
    system_free(block);
    statistics_.reserved_bytes -= size;
  }
}

MemoryStatistics Allocator::statistics() {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

void Allocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  statistics_.peak_bytes = statistics_.current_bytes;
}

void Allocator::release_cached() {
  const std::lock_guard lock(mutex_);
  release_cached_locked();
}

void Allocator::release_cached_locked() {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) system_free(block);
    statistics_.reserved_bytes -= size * static_cast<int64_t>(blocks.size());
    blocks.clear();
  }
}

/// Page-locked blocks are few, large and of few sizes: of them nothing but a page is left unused.
int64_t Allocator::size_of_block(int64_t bytes) const {
  if (pages_ == Pages::ordinary) return block_size(bytes);
  constexpr int64_t page = 4096;
  return bytes < 1 ? page : (bytes + page - 1) / page * page;
}

#ifdef CBQ_CUDA
// On another device it would be memory that the kernels of this thread's stream cannot reach.
void Allocator::check_current() const {
  int current = -1;
  cuda_check(cudaGetDevice(&current), "cudaGetDevice");
  check(current == device_.index, "a tensor on ", device_, " while this thread works on ",
        Device::cuda(current), "; device_from_name() chooses the device");
}
#endif

void* Allocator::system_allocate(int64_t bytes) const {
#ifdef CBQ_CUDA
  const bool locked = pages_ == Pages::locked && can_lock_pages();
  if (device_.is_cuda() || locked) {
    if (device_.is_cuda()) check_current();
    const CaptureBreak relaxed;
    void* block = nullptr;
    const auto size = static_cast<size_t>(bytes);
    const cudaError_t status =
        locked ? cudaHostAlloc(&block, size, cudaHostAllocDefault) : cudaMalloc(&block, size);
    if (status == cudaSuccess) return block;
    cudaGetLastError();
    return nullptr;
  }
#endif
  return allocate_on_host(static_cast<size_t>(bytes));
}

void Allocator::system_free(void* block) const noexcept {
#ifdef CBQ_CUDA
  const bool locked = pages_ == Pages::locked && can_lock_pages();
  if (device_.is_cuda() || locked) {
    const CaptureBreak relaxed;
    locked ? cudaFreeHost(block) : cudaFree(block);
    return;
  }
#endif
  std::free(block);
}

}  // namespace cbq
