// Bytes with an owner. Each device has one allocator, which keeps freed blocks for reuse and
// counts what is in use: the memory columns of the paper's tables are its `peak_bytes`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace cbq {

struct MemoryStatistics {
  int64_t current_bytes = 0;   // handed out now
  int64_t peak_bytes = 0;      // maximum of current_bytes since the last reset_peak
  int64_t reserved_bytes = 0;  // held from the system, cached blocks included
  int64_t allocations = 0;     // calls to allocate since the start
};

class Storage {
 public:
  /// Allocates `bytes` (uninitialized, aligned to 64 bytes or better).
  /// Throws std::runtime_error naming the size and the device when memory is short.
  Storage(int64_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
};

MemoryStatistics memory_statistics(Device device);
/// Sets peak_bytes to current_bytes.
void reset_peak(Device device);
/// Returns cached free blocks to the system.
void release_cached(Device device);

/// Copies bytes between any two devices; complete (as seen by the host) on return.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
/// Sets bytes to zero, in stream order on CUDA.
void zero_bytes(void* at, Device device, int64_t bytes);

}  // namespace cbq
