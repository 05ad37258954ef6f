#include "tensor/threads.h"

#include <unistd.h>

#include <cstdlib>

namespace cbq {

void wait_briefly(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  ::setenv("OMP_WAIT_POLICY", "passive", 1);  // for other runtimes than libgomp
  ::setenv("GOMP_SPINCOUNT", "1000", 1);
  ::execv("/proc/self/exe", argv);  // where that fails, threads wait as the runtime likes
}

}  // namespace cbq
