#include "tensor/runtime/program.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
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

namespace {

std::atomic<int> caught_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not wait for a lock");

constexpr int caught_signals[] = {SIGTERM, SIGINT};

void note_signal(int signal) {
  caught_signal = signal;
  for (const int each : caught_signals)
    std::signal(each, SIG_DFL);  // the next one ends the program
}

}  // namespace

void catch_interrupts() {
  for (const int each : caught_signals) {
    if (std::signal(each, note_signal) == SIG_IGN) std::signal(each, SIG_IGN);
  }
}

bool interrupted() { return caught_signal != 0; }

int interrupted_exit_code() { return 128 + (interrupted() ? caught_signal.load() : SIGINT); }

}  // namespace cbq
