#include <algorithm>
#include <chrono>
#include <vector>

#include "tools/bench/bench.h"

namespace cbq::bench {

Timing measure(Device device, double seconds, const std::function<void()>& f) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  for (int i = 0; i < 2; ++i) f();
  synchronize(device);
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 5 || since(start) < seconds) {
    const auto begin = Clock::now();
    f();
    synchronize(device);
    times.push_back(since(begin));
  }
  std::sort(times.begin(), times.end());
  const size_t n = times.size();
  return {times[0], times[n / 4], times[n / 2], times[n * 3 / 4], static_cast<int>(n)};
}

}  // namespace cbq::bench
