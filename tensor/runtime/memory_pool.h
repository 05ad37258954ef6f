// MemoryPool: blocks that are handed out to nobody else while the pool lives.
//
// A captured step writes to the addresses it was captured with, every time it is replayed. Between
// replays its blocks are free as far as their tensors know; this pool keeps them from others.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tensor/storage.h"

namespace cbq {

/// The blocks of one pool; a Storage that came from it keeps it, so that it can return its block.
class PoolBlocks {
 public:
  explicit PoolBlocks(Device device) : device_(device) {}
  void* allocate(int64_t bytes);
  void release(void* block, int64_t bytes) noexcept;
  /// Free blocks go back to the device's allocator now, the others as soon as they are free.
  void close() noexcept;
  Device device() const { return device_; }
  int64_t bytes();

 private:
  Device device_;
  std::mutex mutex_;
  bool closed_ = false;
  int64_t bytes_ = 0;  // held, in use or free
  std::map<int64_t, std::vector<void*>> free_;
};

class MemoryPool {
 public:
  explicit MemoryPool(Device device) : blocks_(std::make_shared<PoolBlocks>(device)) {}
  ~MemoryPool() { blocks_->close(); }
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// While it lives, the tensors that this thread makes on the pool's device come from the pool.
  class Use {
   public:
    explicit Use(MemoryPool& pool) : outer_(current_) { current_ = &pool; }
    ~Use() { current_ = outer_; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    MemoryPool* outer_;
  };

  /// The pool in use on this thread, or nullptr.
  static MemoryPool* current() { return current_; }
  const std::shared_ptr<PoolBlocks>& blocks() const { return blocks_; }
  /// Bytes that the pool keeps, those of living tensors and those of the next ones.
  int64_t bytes() const { return blocks_->bytes(); }

 private:
  static inline constinit thread_local MemoryPool* current_ = nullptr;
  std::shared_ptr<PoolBlocks> blocks_;
};

}  // namespace cbq
