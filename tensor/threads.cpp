#include "tensor/threads.h"

#include <unistd.h>

#include <cstdlib>

namespace cbq {

void sleep_while_waiting(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  ::setenv("OMP_WAIT_POLICY", "passive", 1);
  ::execv("/proc/self/exe", argv);  // where that fails, threads spin: slower, not wrong
}

}  // namespace cbq
