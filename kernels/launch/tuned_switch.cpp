#include "kernels/launch/tuned_switch.h"

#include <atomic>

#include "tensor/runtime/environment.h"

namespace cbq::tuned {
namespace {

bool switched_on() {
  static const bool on = environment_value("CBQ_FAST") == "1";
  return on;
}
std::atomic<long> count{0};
thread_local int reference_kernels = 0, uncounted = 0;  // how many of each class live

}  // namespace

bool enabled() { return switched_on() && reference_kernels == 0; }
ReferenceKernels::ReferenceKernels() { ++reference_kernels; }
ReferenceKernels::~ReferenceKernels() { --reference_kernels; }

long launches() { return count; }
void count_launch() {
  if (uncounted == 0) ++count;
}
UncountedLaunches::UncountedLaunches() { ++uncounted; }
UncountedLaunches::~UncountedLaunches() { --uncounted; }

}  // namespace cbq::tuned
