#include "tensor/runtime/device_multiprocessors.h"

#include <vector>

#include "tensor/runtime/stream.h"

namespace cbq {
namespace {

constexpr int emulated_multiprocessors = 132;

}  // namespace

int multiprocessor_count([[maybe_unused]] Device device) {
#ifdef CBQ_CUDA
  if (device.is_cuda()) {
    static const std::vector<int> counts = [] {
      std::vector<int> all(static_cast<size_t>(cuda_device_count()));
      for (size_t i = 0; i < all.size(); ++i) {
        cuda_check(
            cudaDeviceGetAttribute(&all[i], cudaDevAttrMultiProcessorCount, static_cast<int>(i)),
            "multiprocessor_count");
      }
      return all;
    }();
    return counts.at(static_cast<size_t>(device.index));
  }
#endif
  return emulated_multiprocessors;
}

}  // namespace cbq
