#include "kernels/launch/launch.h"

#include "tensor/runtime/environment.h"

namespace cbq {

void after_launch(Device device, const char* op) {
#ifdef CBQ_CUDA
  if (!device.is_cuda()) return;
  cuda_check(cudaGetLastError(), op);
  static const bool synchronize_always = environment_value("CBQ_SYNC") == "1";
  if (synchronize_always) cuda_check(cudaStreamSynchronize(current_stream()), op);
#else
  static_cast<void>(device);
  static_cast<void>(op);
#endif
}

}  // namespace cbq
