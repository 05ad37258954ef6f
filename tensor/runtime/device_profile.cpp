#include "tensor/runtime/device_profile.h"

#include <ctime>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/runtime/stream.h"

namespace cbq {

double seconds_on(ProfileClock clock) {
  timespec now{};
  clock_gettime(clock == ProfileClock::cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

#ifdef CBQ_CUDA

/// Pairs of events around ops that are on their way; events are used again.
struct DeviceProfile::Events {
  struct Pair {
    const char* op;
    cudaEvent_t begin, end;
  };
  std::vector<Pair> waiting;
  std::vector<cudaEvent_t> spare;

  ~Events() {
    for (const Pair& pair : waiting) {
      cudaEventDestroy(pair.begin);
      cudaEventDestroy(pair.end);
    }
    for (cudaEvent_t event : spare) cudaEventDestroy(event);
  }

  cudaEvent_t record() {
    cudaEvent_t event = nullptr;
    if (spare.empty()) {
      cuda_check(cudaEventCreate(&event), "cudaEventCreate");
    } else {
      event = spare.back();
      spare.pop_back();
    }
    cuda_check(cudaEventRecord(event, current_stream()), "cudaEventRecord");
    return event;
  }
  void begin(const char* op) { waiting.push_back({op, record(), nullptr}); }
  /// Called by a destructor, so it does not throw: an op whose end cannot be recorded is left out,
  /// and what is wrong with the device shows in add_to().
  void end() {
    try {
      waiting.back().end = record();
    } catch (const CudaError&) {
      spare.push_back(waiting.back().begin);
      waiting.pop_back();
    }
  }

  void add_to(std::map<std::string, Entry>& entries) {
    if (!waiting.empty()) synchronize(Device::cuda());
    for (const Pair& pair : waiting) {
      float milliseconds = 0.0f;
      cuda_check(cudaEventElapsedTime(&milliseconds, pair.begin, pair.end), "cudaEventElapsedTime");
      entries[pair.op].seconds += 1e-3 * static_cast<double>(milliseconds);
      entries[pair.op].calls += 1;
      spare.push_back(pair.begin);
      spare.push_back(pair.end);
    }
    waiting.clear();
  }
};

#else

struct DeviceProfile::Events {
  void begin(const char*) {}
  void end() {}
  void add_to(std::map<std::string, Entry>&) {}
};

#endif

constinit thread_local DeviceProfile* DeviceProfile::active_ = nullptr;

DeviceProfile::DeviceProfile(ProfileClock clock)
    : clock_(clock), events_(std::make_unique<Events>()) {
  check(active_ == nullptr, "DeviceProfile: another one is collecting on this thread");
  active_ = this;
}

DeviceProfile::~DeviceProfile() { active_ = nullptr; }

void DeviceProfile::begin(const char* op, Device device) {
  if (depth_ == 0) {
    op_ = op;
    device_ = device;
    if (device.is_cuda()) {
      events_->begin(op);
    } else {
      start_ = seconds_on(clock_);
    }
  }
  ++depth_;  // last: what throws above is no op that has begun
}

void DeviceProfile::end() {
  if (--depth_ > 0) return;
  if (device_.is_cuda()) {
    events_->end();
    return;
  }
  Entry& entry = entries_[op_];
  entry.seconds += seconds_on(clock_) - start_;
  entry.calls += 1;
}

std::map<std::string, DeviceProfile::Entry> DeviceProfile::take() {
  events_->add_to(entries_);
  return std::exchange(entries_, {});
}

}  // namespace cbq
