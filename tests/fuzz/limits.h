// What one input may cost: processor time, memory. Both end the process that parses it, with a
// stack trace where a sanitizer can print one.
#pragma once

#include <cstdint>

namespace cbq::fuzz {

struct Limits {
  // Of processor time per input, so that other work does not count. Inputs reach 2 MiB, of which
  // parsers with sanitizers read 1 MiB a second.
  double seconds = 6.0;
  double wait = 120.0;  // by the clock, for a parser that waits for something
  int64_t megabytes = 256;
};

/// Once in the process that parses.
void install_limits(const Limits& limits);
/// From here on the next input is counted.
void begin_input();
/// The processor time of the input so far, in seconds.
double end_input();
/// Whether memory was lost since the last call; reported on stderr. False without a sanitizer.
bool memory_leaked();
/// Whether this program finds accesses beyond an object's end.
bool has_sanitizer();

}  // namespace cbq::fuzz
