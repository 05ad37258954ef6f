// Timing for the `bench` program.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/runtime/device_profile.h"
#include "tensor/tensor.h"

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

/// The timing that these times (seconds, any order, at least one) make.
Timing timing_of(std::vector<double> times);

/// `--clock`: "wall", or "cpu", which other programs on a shared machine do not change.
void add_clock_option(CLI::App& app, std::string& clock);
ProfileClock clock_from_name(const std::string& name);

/// Calls f until `seconds` have passed (at least 5 times, after two calls that do not count), and
/// waits for the device after each.
Timing measure(Device device, double seconds, const std::function<void()>& f,
               ProfileClock clock = ProfileClock::wall);

/// As measure(), for one op. On CUDA the time is the device's, between two events, and before each
/// call the second-level cache is filled with something else; that also keeps the device busy until
/// the op has been launched, so that neither the launch nor the wait for its end counts.
Timing measure_op(Device device, double seconds, const std::function<void()>& f);

/// What this device reaches now: the measures that speeds are shares of.
struct Ceilings {
  double copy = 0.0;  // bytes read and written per second
  double gemm = 0.0;  // floating-point operations per second
};
/// The rate, bytes read and written per second, of copying half as many bytes, timed as an op is.
double copy_rate(Device device, double bytes, double seconds);
/// Copies 4 M elements (128 M on CUDA) and multiplies matrices of 1024^3 (8192^3); prints both when
/// asked.
Ceilings measure_ceilings(Device device, Dtype dtype, double seconds, ProfileClock clock,
                          bool print);

/// A line of `bench ops` for what may have a kernel among the tuned ones.
struct TunedLine {
  std::string title;
  Shape shape;
  double work = 0.0;  // bytes, or operations where `flops`
  std::function<void()> run;
  bool flops = false;
};
/// Every rounding scheme with its own kind of variables, groups of 128, forward and backward; bytes
/// are those of W, its variables and results.
std::vector<TunedLine> rounding_lines(Device device, Dtype dtype);
/// Causal attention, forward and backward, all heads alike and in groups of eight. Operations are
/// those of the products that the mask leaves: two forward, five backward.
std::vector<TunedLine> attention_lines(Device device, Dtype dtype);
/// Quantizers of tokens with the norm or SwiGLU before them, forward and backward; bytes are those
/// of one pass: x, SwiGLU's second operand, every x^; and the gradients of all these.
std::vector<TunedLine> token_lines(Device device, Dtype dtype);

/// `bench ops`: one line per op case (tests/op_case.h) against the measured ceilings.
void add_ops_command(CLI::App& app);
/// `bench step`: one reconstruction step, taken apart, against its floor.
void add_step_command(CLI::App& app);
/// `bench run`: windows per minute and hours per model.
void add_run_command(CLI::App& app);

}  // namespace cbq::bench
