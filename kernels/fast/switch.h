// Whether the kernels of this folder are used: CBQ_FAST=0 in the environment takes their plain
// twins everywhere, so that the two can be compared on one machine. Quantizers of tokens then go
// step by step (quant/activation_quantizer.cpp), on the CPU, too; quantize_tokens called by itself
// takes its plain functor.
#pragma once

namespace cbq::fast {

/// False after CBQ_FAST=0, and while a PlainTwins lives.
bool enabled();

/// While it lives, plain twins run: tests and benchmarks compare the forms in one process.
class PlainTwins {
 public:
  PlainTwins();
  ~PlainTwins();
  PlainTwins(const PlainTwins&) = delete;
  PlainTwins& operator=(const PlainTwins&) = delete;

 private:
  bool before_;
};

/// Launches of kernels of this folder so far in this process.
long launches();
/// One more.
void count_launch();

}  // namespace cbq::fast
