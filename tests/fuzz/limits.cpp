#include "tests/fuzz/limits.h"

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
// g++ has these functions in its library, but not the header that declares them.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t),
                                                         void (*)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void*);

// malloc of a size too large for any machine gives null: HDF5 asks for such sizes when a file is
// damaged, and reports the failure. operator new, which is what this project calls, ends the
// process.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:max_allocation_size_mb=1024:handle_abort=1:"
         "detect_stack_use_after_return=0:quarantine_size_mb=16";
}
// HDF5 forgets memory on its way out of a damaged file.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5\n"; }
// HDF5 1.10.8 compares the names of attributes beyond their ends in damaged files (H5Aexists). That
// is a fault of the library that no caller can mend; memcpy and its like stay watched everywhere
// else.
extern "C" const char* __asan_default_suppressions() { return "interceptor_via_lib:libhdf5\n"; }
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }
#endif

namespace cbq::fuzz {
namespace {

Limits limits_of_process;
std::atomic<int64_t> live{0}, live_at_begin{0};
double begin_seconds = 0.0;

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void say(std::string_view line) { (void)!::write(STDERR_FILENO, line.data(), line.size()); }

/// An alarm that goes off in the middle of malloc would make the stack trace wait for malloc's own
/// lock: the second alarm, by the clock, ends that.
void on_time_out(int signal) {
  say(signal == SIGPROF ? "\nLIMIT: too much processor time for one input\n"
                        : "\nLIMIT: this input makes the parser wait for something\n");
#if defined(__SANITIZE_ADDRESS__)
  if (signal == SIGPROF) __sanitizer_print_stack_trace();
#endif
  ::_exit(98);
}

#if defined(__SANITIZE_ADDRESS__)
void on_malloc(const volatile void*, size_t size) {
  const int64_t now = live.fetch_add(static_cast<int64_t>(size)) + static_cast<int64_t>(size);
  if (now - live_at_begin.load() <= limits_of_process.megabytes << 20) return;
  live_at_begin.store(now);  // the report itself allocates
  say("\nLIMIT: too much memory for one input\n");
  __sanitizer_print_stack_trace();
  ::_exit(97);
}

void on_free(const volatile void* at) {
  if (at) live.fetch_sub(static_cast<int64_t>(__sanitizer_get_allocated_size(at)));
}
#endif

void set_timer(int which, double seconds) {
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec =
      static_cast<suseconds_t>((seconds - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
  setitimer(which, &timer, nullptr);
}

}  // namespace

void install_limits(const Limits& limits) {
  limits_of_process = limits;
  std::signal(SIGPROF, on_time_out);
  std::signal(SIGALRM, on_time_out);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
#else
  // Of the address space, which is all that can be bounded here; beyond it malloc finds nothing.
  // With room for what the libraries reserve at their first call.
  long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  const auto used = static_cast<rlim_t>(pages) * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
  const rlim_t most = used + (static_cast<rlim_t>(limits.megabytes) << 20) + (rlim_t{1} << 30);
  const rlimit space{most, most};
  if (pages > 0) ::setrlimit(RLIMIT_AS, &space);
#endif
}

void begin_input() {
  live_at_begin = live.load();
  set_timer(ITIMER_PROF, limits_of_process.seconds);
  set_timer(ITIMER_REAL, limits_of_process.wait);
  begin_seconds = processor_seconds();
}

double end_input() {
  const double seconds = processor_seconds() - begin_seconds;
  set_timer(ITIMER_PROF, 0.0);
  set_timer(ITIMER_REAL, 0.0);
  return seconds;
}

bool memory_leaked() {
#if defined(__SANITIZE_ADDRESS__)
  return __lsan_do_recoverable_leak_check() != 0;
#else
  return false;
#endif
}

bool has_sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return false;
#endif
}

}  // namespace cbq::fuzz
