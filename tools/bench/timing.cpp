#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/ops.h"
#include "tools/bench/bench.h"

namespace cbq::bench {

Timing timing_of(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const size_t n = times.size();
  return {times[0], times[n / 4], times[n / 2], times[n * 3 / 4], static_cast<int>(n)};
}

void add_clock_option(CLI::App& app, std::string& clock) {
  app.add_option(
         "--clock", clock,
         "Clock of the times: wall, cpu (of all threads; what others do on a shared machine "
         "does not count)")
      ->capture_default_str()
      ->check(CLI::IsMember({"wall", "cpu"}));
}

ProfileClock clock_from_name(const std::string& name) {
  return name == "cpu" ? ProfileClock::cpu : ProfileClock::wall;
}

Timing measure(Device device, double seconds, const std::function<void()>& f, ProfileClock clock) {
  for (int i = 0; i < 2; ++i) f();
  synchronize(device);
  std::vector<double> times;
  const double start = seconds_on(ProfileClock::wall);
  while (times.size() < 5 || seconds_on(ProfileClock::wall) - start < seconds) {
    const double begin = seconds_on(clock);
    f();
    synchronize(device);
    times.push_back(seconds_on(clock) - begin);
  }
  return timing_of(std::move(times));
}

namespace {

// On the CPU all threads copy their part: one thread does not fill the memory bus.
void copy(const Tensor& to, const Tensor& from) {
  const Device cpu = Device::cpu();
  if (to.device() != cpu) {
    to.copy_from(from);
    return;
  }
  constexpr int64_t part = 1 << 20;
  const int64_t bytes = to.bytes();
  auto* const target = static_cast<char*>(to.raw());
  const auto* const source = static_cast<const char*>(from.raw());
#pragma omp parallel for schedule(static)
  for (int64_t at = 0; at < bytes; at += part) {
    std::memcpy(target + at, source + at, static_cast<size_t>(std::min(part, bytes - at)));
  }
}

/// Larger than the second-level cache of any device there is.
constexpr int64_t flushed_bytes = 256 << 20;

}  // namespace

Timing measure_op(Device device, double seconds, const std::function<void()>& f) {
  if (!device.is_cuda()) return measure(device, seconds, f);
  const Tensor other({flushed_bytes / 4}, Dtype::f32, device);
  for (int i = 0; i < 2; ++i) f();
  synchronize(device);
  DeviceProfile profile;
  std::vector<double> times;
  const double start = seconds_on(ProfileClock::wall);
  while (times.size() < 5 || seconds_on(ProfileClock::wall) - start < seconds) {
    {
      const OpTimer timer("flush", device);  // names what it encloses, here and below
      kernels::fill(other, static_cast<double>(times.size()));
    }
    {
      const OpTimer timer("measured", device);
      f();
    }
    times.push_back(profile.take().at("measured").seconds);
  }
  return timing_of(std::move(times));
}

double copy_rate(Device device, double bytes, double seconds) {
  const auto count = std::max<int64_t>(1, static_cast<int64_t>(bytes / 8.0));
  const Tensor from = Tensor::zeros({count}, Dtype::f32, device),
               to(from.shape(), Dtype::f32, device);
  const Timing timing = measure_op(device, seconds, [&] { copy(to, from); });
  return 8.0 * static_cast<double>(count) / timing.median;
}

Ceilings measure_ceilings(Device device, Dtype dtype, double seconds, ProfileClock clock,
                          bool print) {
  const int64_t count = device.is_cuda() ? 128 << 20 : 4 << 20,
                side = device.is_cuda() ? 8192 : 1024;
  const Tensor from = Tensor::zeros({count}, dtype, device), to(from.shape(), dtype, device);
  const Tensor a({side, side}, dtype, device), c(a.shape(), dtype, device);
  kernels::fill_normal(a, 0.0, 1.0, 1, 1);
  const Timing copied = measure(
      device, seconds, [&] { copy(to, from); }, clock);
  const Timing multiplied = measure(
      device, seconds,
      [&] { kernels::gemm(a, kernels::Trans::no, a, kernels::Trans::yes, c, 1.0, 0.0); }, clock);
  const double bytes = 2.0 * static_cast<double>(from.bytes());
  const double flops = 2.0 * std::pow(static_cast<double>(side), 3);
  const auto line = [](const std::string& what, double work, const char* unit, const Timing& t) {
    fmt::print("{}: {:.1f} {} (+-{:.0f} %, best {:.1f})\n", what, 1e-9 * work / t.median, unit,
               100 * t.spread(), 1e-9 * work / t.best);
  };
  if (print) {
    line(fmt::format("copy of {} M elements", count >> 20), bytes, "GB/s", copied);
    line(fmt::format("product of {}^3", side), flops, "GFLOP/s", multiplied);
  }
  return {bytes / copied.median, flops / multiplied.median};
}

}  // namespace cbq::bench
