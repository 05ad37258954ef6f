// Allocator: the one of each device, and the one of page-locked host memory. Freed blocks are kept
// for reuse, and what is in use is counted.
#pragma once

#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/storage.h"

namespace cbq {

class Allocator {
 public:
  /// Never destroyed: tensors in static storage may outlive any order of destruction.
  static Allocator& of(Device device);
  static Allocator& page_locked();

  /// Throws std::runtime_error with what is asked for, what is free and what would need less.
  void* allocate(int64_t bytes);
  /// nullptr where memory is short.
  void* try_allocate(int64_t bytes);
  void release(void* block, int64_t bytes) noexcept;

  MemoryStatistics statistics();
  void reset_peak();
  void release_cached();

 private:
  enum class Pages { ordinary, locked };
  Allocator(Device device, Pages pages) : device_(device), pages_(pages) {}

  int64_t size_of_block(int64_t bytes) const;
  void* take(int64_t size);
  void release_cached_locked();
  void check_current() const;
  void* system_allocate(int64_t bytes) const;
  void system_free(void* block) const noexcept;

  Device device_;
  Pages pages_;
  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<void*>> free_;
  MemoryStatistics statistics_;
};

}  // namespace cbq
