// Where the tests of CUDA kernels run.
#pragma once

#include <optional>

#include "kernels/launch/launch.h"

namespace cbq::test {

/// Where functors become grids: the CPU in cbq_simt_tests, else a GPU where there is one. In files
/// named .cu only: the answer depends on what compiles them.
inline std::optional<Device> grid_device() {
  if (runs_on_grid(Device::cpu())) return Device::cpu();
  if (cuda_device_count() > 0) return Device::cuda();
  return std::nullopt;
}

}  // namespace cbq::test
