// Whether the tuned kernels (kernels/fused/, kernels/attention/) are used: CBQ_FAST=0 takes their
// reference kernels everywhere, so that the two can be compared on one machine. Quantizers of
// tokens then go step by step (quant/activation_quantizer.cpp), on the CPU, too; quantize_tokens
// called by itself takes its reference kernel.
#pragma once

namespace cbq::tuned {

/// False after CBQ_FAST=0, and in a thread while a ReferenceKernels lives there.
bool enabled();

/// While it lives, this thread runs reference kernels: tests, benchmarks and the guard
/// (tuned_guard.h) compare the two forms in one process.
class ReferenceKernels {
 public:
  ReferenceKernels();
  ~ReferenceKernels();
  ReferenceKernels(const ReferenceKernels&) = delete;
  ReferenceKernels& operator=(const ReferenceKernels&) = delete;
};

/// Launches of tuned kernels so far in this process.
long launches();
/// One more, unless an UncountedLaunches lives in this thread.
void count_launch();

class UncountedLaunches {
 public:
  UncountedLaunches();
  ~UncountedLaunches();
  UncountedLaunches(const UncountedLaunches&) = delete;
  UncountedLaunches& operator=(const UncountedLaunches&) = delete;
};

}  // namespace cbq::tuned
