// How many thread blocks keep a device busy.
#pragma once

#include "tensor/runtime/device.h"

namespace cbq {

/// Multiprocessors of a CUDA device, asked for once. For the CPU 132, those of an H100, so that the
/// tests' emulated grids are as large as real ones.
int multiprocessor_count(Device device);

}  // namespace cbq
