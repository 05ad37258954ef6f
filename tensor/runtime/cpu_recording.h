// Recording: on the CPU what a captured stream is on CUDA. While one is active on a thread,
// launches, fills and copies on the CPU are not done but kept, with their arguments as they were,
// and replay() does them as often as it is called.
//
// It makes nothing faster. It is the same contract as a CUDA graph's (arguments and addresses are
// frozen, nothing runs while it is recorded), so that tests without a GPU see what would be wrong
// with one: a number that the host changes between steps, or memory that somebody else uses now.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace cbq {

class Recording {
 public:
  Recording() = default;
  ~Recording() { clear(); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  /// The one that keeps what this thread launches, or nullptr.
  static Recording* active() { return active_; }
  static void set_active(Recording* recording) { active_ = recording; }

  /// Keeps a copy of `call`, which replay() calls.
  template <class Call>
  void add(const Call& call) {
    // Not std::function: it costs nvcc much time in every file of kernels.
    entries_.push_back({new Call(call), [](void* c) { (*static_cast<Call*>(c))(); },
                        [](void* c) { delete static_cast<Call*>(c); }});
  }
  void replay() const {
    for (const Entry& entry : entries_) entry.run(entry.call);
  }
  void clear() {
    for (const Entry& entry : entries_) entry.destroy(entry.call);
    entries_.clear();
  }

 private:
  struct Entry {
    void* call;
    void (*run)(void*);
    void (*destroy)(void*);
  };
  static inline constinit thread_local Recording* active_ = nullptr;
  std::vector<Entry> entries_;
};

// The hook: all that a step may launch on the CPU passes here. No other place of the library asks
// whether somebody records (tools/checks/check_layers.py).

/// Does `call`, or keeps a copy of it where this thread records.
template <class Call>
void run_or_record(const Call& call) {
  if (Recording* recording = Recording::active()) {
    recording->add(call);
  } else {
    call();
  }
}
/// Of `most` threads, those that may launch side by side: a recording sees its own thread only.
inline int64_t launching_threads(int64_t most) { return Recording::active() != nullptr ? 1 : most; }

}  // namespace cbq
