#include "tensor/runtime/program.h"

#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>

#include "tensor/error.h"
#include "tensor/runtime/threads.h"

namespace cbq {
namespace {

/// A pipe without a reader; std::cout keeps no errno that would tell.
bool output_has_no_reader() {
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

}  // namespace

void start_program(char** argv) {
  wait_briefly(argv);
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
}

int finish_output() {
  std::cout.flush();
  std::fflush(stdout);  // fmt::print writes there
  if (std::cout && std::ferror(stdout) == 0) return 0;
  if (output_has_no_reader()) return 128 + SIGPIPE;
  fail("cannot write to standard output; is the disk full, or a limit of file sizes (ulimit -f) ",
       "reached?");
}

}  // namespace cbq
