#include "tensor/runtime/memory_pool.h"

#include <utility>

namespace cbq {

void* PoolBlocks::allocate(int64_t bytes) {
  const int64_t size = block_size(bytes);
  const std::lock_guard lock(mutex_);
  if (auto& blocks = free_[size]; !blocks.empty()) {
    void* block = blocks.back();
    blocks.pop_back();
    return block;
  }
  void* block = allocate_block(size, device_);
  bytes_ += size;
  return block;
}

void PoolBlocks::release(void* block, int64_t bytes) noexcept {
  const int64_t size = block_size(bytes);
  const std::lock_guard lock(mutex_);
  if (closed_) {
    release_block(block, size, device_);
    bytes_ -= size;
  } else {
    free_[size].push_back(block);
  }
}

void PoolBlocks::close() noexcept {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const auto& [size, blocks] : std::exchange(free_, {})) {
    for (void* block : blocks) release_block(block, size, device_);
    bytes_ -= size * static_cast<int64_t>(blocks.size());
  }
}

int64_t PoolBlocks::bytes() {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace cbq
