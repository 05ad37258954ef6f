// Exceptions and OpenMP: an exception that leaves a parallel region ends the program, so it is kept
// and thrown again after the region.
#pragma once

#include <atomic>
#include <exception>

namespace cbq {

/// Keeps the first exception of a parallel region:
///
///   ParallelErrors errors;
///   #pragma omp parallel for
///   for (...) errors.guard([&] { may throw });
///   errors.rethrow();
class ParallelErrors {
 public:
  /// Calls f, and keeps what it throws. Does nothing once another call has thrown.
  template <class F>
  void guard(F&& f) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      f();
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  /// Throws what was kept. Call it after the region, on one thread.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // written by the one thread that set failed_
};

}  // namespace cbq
