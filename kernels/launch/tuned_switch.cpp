#include "kernels/launch/tuned_switch.h"

#include <atomic>

#include "tensor/runtime/environment.h"

namespace cbq::tuned {
namespace {

bool& state() {
  static bool on = environment_value("CBQ_FAST") == "1";
  return on;
}
std::atomic<long> count{0};

}  // namespace

bool enabled() { return state(); }
ReferenceKernels::ReferenceKernels() : before_(state()) { state() = false; }
ReferenceKernels::~ReferenceKernels() { state() = before_; }

long launches() { return count; }
void count_launch() { ++count; }

}  // namespace cbq::tuned
