// Bytes with an owner. Each device has one allocator, which keeps freed blocks for reuse and
// counts what is in use: the memory columns of the paper's tables are its `peak_bytes`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "tensor/runtime/device.h"

namespace cbq {

struct MemoryStatistics {
  int64_t current_bytes = 0;       // handed out now
  int64_t peak_bytes = 0;          // maximum of current_bytes since the last reset_peak
  int64_t reserved_bytes = 0;      // held from the system, cached blocks included
  int64_t allocations = 0;         // calls to allocate since the start
  int64_t system_allocations = 0;  // of them, those that the system had to answer
};

class PoolBlocks;  // tensor/runtime/memory_pool.h

class Storage {
 public:
  /// Allocates `bytes` (uninitialized, aligned to 64 bytes or better), from the MemoryPool in use
  /// on this thread if it is one of `device`. Throws std::runtime_error with what is asked for,
  /// what is free and what would need less when memory is short.
  Storage(int64_t bytes, Device device);
  /// Host memory that is page-locked, so that a device copies from and to it while host and device
  /// go on. Locking pages is slow, so freed blocks are kept for the next of that size. A queue that
  /// copies from or to the block must have waited for its copies before the storage goes (as
  /// CopyQueue does). Where locked pages cannot be had it is ordinary memory: copies are right, and
  /// wait.
  static std::shared_ptr<Storage> page_locked(int64_t bytes);
  /// Memory of somebody else's, at least `bytes` of it, in place: nothing is copied. `release` is
  /// called when nobody uses it any more, from whichever thread that is. It is not counted in
  /// memory_statistics.
  static std::shared_ptr<Storage> adopt(void* data, int64_t bytes, Device device,
                                        std::function<void()> release);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage() = default;

  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  bool page_locked_ = false;
  std::function<void()> release_;  // of adopted memory
  std::shared_ptr<PoolBlocks>
      pool_;  // where the block returns to, if not to the device's allocator
};

/// What Storage and MemoryPool are made of: blocks of block_size(bytes), and their way back.
int64_t block_size(int64_t bytes);
void* allocate_block(int64_t bytes, Device device);
void release_block(void* block, int64_t bytes, Device device) noexcept;

MemoryStatistics memory_statistics(Device device);
/// Sets peak_bytes to current_bytes.
void reset_peak(Device device);
/// Returns cached free blocks of the device, and all page-locked ones, to the system.
void release_cached(Device device);
/// The same numbers of page-locked host memory (of what stands in for it where there is none).
MemoryStatistics page_locked_statistics();

/// Copies bytes between any two devices; complete (as seen by the host) on return.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
/// Sets bytes to zero, in stream order on CUDA.
void zero_bytes(void* at, Device device, int64_t bytes);

/// How often this thread has moved elements between host code and tensors: Tensor::from, to,
/// to_vector, item, and copies from one device to another. Each makes the host wait for a GPU, so
/// what is to be captured (tensor/runtime/stream_graph.h) may have none, and on a CPU they show
/// here.
int64_t host_transfers();
void count_host_transfer();

}  // namespace cbq
