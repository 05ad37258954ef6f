// Whether the tuned kernels (kernels/fused/, kernels/attention/) are used: CBQ_FAST=0 takes their
// reference kernels everywhere, so that the two can be compared on one machine. Quantizers of
// tokens then go step by step (quant/activation_quantizer.cpp), on the CPU, too; quantize_tokens
// called by itself takes its reference kernel.
#pragma once

namespace cbq::tuned {

/// False after CBQ_FAST=0, and while a ReferenceKernels lives.
bool enabled();

/// While it lives, reference kernels run: tests and benchmarks compare the forms in one process.
class ReferenceKernels {
 public:
  ReferenceKernels();
  ~ReferenceKernels();
  ReferenceKernels(const ReferenceKernels&) = delete;
  ReferenceKernels& operator=(const ReferenceKernels&) = delete;

 private:
  bool before_;
};

/// Launches of kernels of this folder so far in this process.
long launches();
/// One more.
void count_launch();

}  // namespace cbq::tuned
