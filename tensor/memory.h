// How much memory there is, and how much this process has had.
#pragma once

#include <cstdint>

#include "tensor/device.h"

namespace cbq {

/// Bytes that this process can still take on `device`. On the CPU the least of what the system has
/// available (/proc/meminfo), what the limits of its control groups leave, and what its own limits
/// (ulimit -v, ulimit -d) leave; on CUDA what the driver says is free.
int64_t free_bytes(Device device);

/// The most of this process that was in memory at any time (ru_maxrss): parameters, streams, and
/// the pages of mapped files that were being read.
int64_t peak_resident_bytes();

}  // namespace cbq
