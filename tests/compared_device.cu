#include "kernels/launch/launch.h"
#include "tests/compared_device.h"

namespace cbq::test {

std::optional<Device> compared_device() {
  if (runs_on_grid(Device::cpu())) return Device::cpu();
  if (cuda_device_count() > 0) return Device::cuda();
  return std::nullopt;
}

void on_the_host(const std::function<void()>& f) {
#ifdef CBQ_SIMT
  const simt::OnTheHost host;
#endif
  f();
}

}  // namespace cbq::test
