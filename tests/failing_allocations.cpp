#include "tests/failing_allocations.h"

#include <atomic>
#include <cstdlib>

namespace cbq::test {
namespace {

std::atomic<int64_t> left{-1};  // until the one that fails; negative: none does

void* allocate(std::size_t bytes) {
  if (left.load(std::memory_order_relaxed) >= 0 && left.fetch_sub(1) == 0) throw std::bad_alloc();
  void* const block = std::malloc(bytes > 0 ? bytes : 1);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

void fail_allocation_after(int64_t count) { left = count; }
bool allocation_failed() { return left.exchange(-1) < 0; }

}  // namespace cbq::test

// The program's own, in place of the library's. The forms that do not throw belong to the set: an
// allocation by the library's form (std::stable_sort makes one) must not end in our delete, which
// AddressSanitizer reports.
void* operator new(std::size_t bytes) { return cbq::test::allocate(bytes); }
void* operator new[](std::size_t bytes) { return cbq::test::allocate(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(bytes > 0 ? bytes : 1);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(bytes > 0 ? bytes : 1);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { std::free(block); }
