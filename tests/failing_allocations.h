// Memory that runs out where a test says: operator new of the test program
// (failing_allocations.cpp) throws once.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <new>

namespace cbq::test {

/// The next `count` allocations succeed, the one behind them throws std::bad_alloc, on whichever
/// thread it is made.
void fail_allocation_after(int64_t count);
/// Ends that; true if the allocation was made.
bool allocation_failed();

/// Calls f again and again, each time with the next of its allocations failing, until all have
/// been. Every failure has to come out of f as std::bad_alloc. Returns how many there were.
template <class F>
int64_t with_each_allocation_failing(F&& f) {
  for (int64_t count = 0;; ++count) {
    bool thrown = false;
    fail_allocation_after(count);
    try {
      f();
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    const bool failed = allocation_failed();
    EXPECT_EQ(thrown, failed) << "allocation " << count;
    if (!failed || thrown != failed) return count;
  }
}

}  // namespace cbq::test
