// Where the time goes, op by op: what `bench step` breaks down.
//
// Off by default, and then one test of a pointer per op. kernels/launch/launch.h and
// kernels/matmul/gemm.cpp say what they run; nobody else has to know.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "tensor/runtime/device.h"

namespace cbq {

/// Which time is counted on the CPU: what a clock on the wall shows, or the processor time of this
/// process (all threads), which other programs on the machine do not change.
enum class ProfileClock { wall, cpu };

/// Seconds on a clock since some fixed point.
double seconds_on(ProfileClock clock);

/// Collects the time of every op while it lives; one at a time, and only for ops that the thread
/// that made it starts. On CUDA, time is taken between events in the stream, so that measuring
/// makes nobody wait.
class DeviceProfile {
 public:
  struct Entry {
    double seconds = 0.0;
    int64_t calls = 0;
  };

  explicit DeviceProfile(ProfileClock clock = ProfileClock::wall);
  ~DeviceProfile();
  DeviceProfile(const DeviceProfile&) = delete;
  DeviceProfile& operator=(const DeviceProfile&) = delete;

  /// The one that collects on this thread, or nullptr.
  static DeviceProfile* active() { return active_; }

  /// An op begins and ends; of an op inside an op only the outer one counts. `op` must outlive the
  /// profile (a literal, a static name).
  void begin(const char* op, Device device);
  void end();

  /// Time by op since the start or the last take(); waits for the device.
  std::map<std::string, Entry> take();

 private:
  struct Events;  // CUDA's, none elsewhere

  static constinit thread_local DeviceProfile* active_;
  ProfileClock clock_;
  int depth_ = 0;
  const char* op_ = nullptr;
  Device device_;
  double start_ = 0.0;
  std::map<std::string, Entry> entries_;
  std::unique_ptr<Events> events_;
};

/// Its life is the time of one op.
class OpTimer {
 public:
  OpTimer(const char* op, Device device) : profile_(DeviceProfile::active()) {
    if (profile_ != nullptr) profile_->begin(op, device);
  }
  ~OpTimer() {
    if (profile_ != nullptr) profile_->end();
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  DeviceProfile* profile_;
};

}  // namespace cbq
