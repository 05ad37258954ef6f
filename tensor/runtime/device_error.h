// What an error of the device means for the person at the keyboard. Pure functions of numbers, so
// that their texts are tested on machines without a GPU.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/runtime/device.h"

namespace cbq {

/// What to do about the CUDA runtime error with this number; empty for one that CUDA's own text
/// says all about.
std::string advice_on_cuda_error(int code);

/// The same for a status of cuBLAS, which has few words: `device_error` is what the CUDA runtime
/// says of the device at that moment (0: nothing).
std::string advice_on_cublas_error(int status, int device_error);

/// Why no CUDA device can be used: the driver's and the runtime's versions as CUDA numbers them
/// (12040 is 12.4; driver 0: none), and the error that counting the devices gave (0: none) with
/// CUDA's text for it.
std::string describe_missing_device(int driver, int runtime, int error, const std::string& text);

/// What a program can do about such an error, in the words of its own command line: this library
/// does not know them.
struct CommandAdvice {
  std::string less_memory;  // "fewer texts at once need less"
  std::string go_on;        // how work that was done already is kept
};
/// For all messages from here on; before the first thread computes. Without it messages say what
/// happened and give no advice of this kind.
void set_command_advice(CommandAdvice advice);
/// Its less_memory.
const std::string& advice_on_memory();

/// True for errors after which the process cannot use the device again.
bool device_is_lost(int code);

/// State of a device at the moment when memory was short; all in bytes.
struct MemoryShortage {
  int64_t asked = 0;   // this allocation
  int64_t in_use = 0;  // tensors of this process
  int64_t cached = 0;  // freed blocks that this process still kept
  int64_t free = 0;    // what the device says is free
  int64_t total = 0;   // of the device; 0: unknown
};

/// "out of memory on cuda:0: asked for 1.50 GB, ...; " and the CommandAdvice.
std::string describe(const MemoryShortage& shortage, Device device);

}  // namespace cbq
