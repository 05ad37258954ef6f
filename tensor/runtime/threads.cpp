#include "tensor/runtime/threads.h"

#include <unistd.h>

#include <cstdlib>

namespace cbq {

void wait_briefly(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  // Were it not set, the new start would start again, and so on.
  if (::setenv("GOMP_SPINCOUNT", "1000", 1) != 0) return;
  ::setenv("OMP_WAIT_POLICY", "passive", 1);  // for other runtimes than libgomp
  ::execv("/proc/self/exe", argv);            // where that fails, threads wait as the runtime likes
}

}  // namespace cbq
