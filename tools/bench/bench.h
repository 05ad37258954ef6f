// Timing for the `bench` program.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "tensor/device.h"

namespace cbq::bench {

/// Times of one call, in seconds: quartiles, and the best, which is what a shared machine can do
/// when it is left alone.
struct Timing {
  double best = 0.0;
  double first_quartile = 0.0, median = 0.0, third_quartile = 0.0;
  int runs = 0;
  /// Half the distance of the quartiles over the median: how far to trust the median.
  double spread() const { return (third_quartile - first_quartile) / (2.0 * median); }
};

/// Calls f until `seconds` have passed (at least 5 times, after two calls that do not count), and
/// waits for the device after each.
Timing measure(Device device, double seconds, const std::function<void()>& f);

/// `bench ops`: one line per op case (tests/op_case.h) against the measured ceilings.
void add_ops_command(CLI::App& app);

}  // namespace cbq::bench
