// How much memory there is, and how much this process has had.
#pragma once

#include <cstdint>

#include "tensor/runtime/device.h"

namespace cbq {

/// Bytes that `device` has (total), and that this process can still take (free). Free on the CPU is
/// the least of what the system has available (/proc/meminfo), what the limits of its control
/// groups leave, and what its own limits (ulimit -v, ulimit -d) leave; on CUDA what the driver says
/// of the device named, whichever is the current one. There the cached blocks of this process
/// (tensor/storage.h) count as used. Both are 0 where the driver does not answer.
struct DeviceMemory {
  int64_t free = 0;
  int64_t total = 0;
};
DeviceMemory device_memory(Device device);

/// The most memory that this process can have on `device`, however much of it is taken now: what
/// the device has; on the CPU the least of that, the limits of the process's control groups, and
/// its own limits (ulimit -v, ulimit -d). 0 where the driver does not answer.
int64_t memory_limit(Device device);

/// The most of this process that was in memory at any time (ru_maxrss): parameters, streams, and
/// the pages of mapped files that were being read.
int64_t peak_resident_bytes();

}  // namespace cbq
