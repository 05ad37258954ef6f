// Stopping and watching loops that take long: Ctrl-C must be noticed within a batch or a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace cbq {

struct Interrupted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Called often inside a long loop; throws to stop it. May be empty.
using Poll = std::function<void()>;

/// What a caller wants to know of a loop; both may be empty.
struct Watch {
  std::function<bool()> interrupted;  // true: stop, please
  std::function<void(int64_t done, int64_t total, const std::string& what)> progress;

  /// Throws Interrupted("interrupted while WHAT") when asked to stop.
  void poll(const std::string& what) const {
    if (interrupted && interrupted()) throw Interrupted("interrupted while " + what);
  }
  /// The same, and `done` of `total` parts of it are done.
  void step(int64_t done, int64_t total, const std::string& what) const {
    poll(what);
    if (progress) progress(done, total, what);
  }
  Poll poll_of(const std::string& what) const {
    return [this, what] { poll(what); };
  }
};

}  // namespace cbq
