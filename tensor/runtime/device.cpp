#include "tensor/runtime/device.h"

#include "tensor/error.h"
#include "tensor/runtime/device_error.h"
#include "tensor/runtime/stream.h"

namespace cbq {

std::string name_of(Device device) {
  if (device == Device::cpu()) return "cpu";
  return (device.is_cuda() ? "cuda:" : "cpu:") + std::to_string(device.index);
}

#ifdef CBQ_CUDA

// The numbers that tensor/runtime/device_error.cpp speaks of are the runtime's.
static_assert(cudaErrorMemoryAllocation == 2 && cudaErrorInsufficientDriver == 35 &&
              cudaErrorDevicesUnavailable == 46 && cudaErrorNoDevice == 100 &&
              cudaErrorNoKernelImageForDevice == 209 && cudaErrorECCUncorrectable == 214 &&
              cudaErrorUnsupportedPtxVersion == 222 && cudaErrorIllegalAddress == 700 &&
              cudaErrorLaunchTimeout == 702 && cudaErrorContextIsDestroyed == 709 &&
              cudaErrorAssert == 710 && cudaErrorHardwareStackError == 714 &&
              cudaErrorIllegalInstruction == 715 && cudaErrorMisalignedAddress == 716 &&
              cudaErrorInvalidAddressSpace == 717 && cudaErrorInvalidPc == 718 &&
              cudaErrorLaunchFailure == 719 && cudaErrorSystemNotReady == 802 &&
              cudaErrorSystemDriverMismatch == 803 && cudaErrorCompatNotSupportedOnDevice == 804 &&
              cudaErrorStreamCaptureUnsupported == 900 && cudaErrorCapturedEvent == 907);
#if CUDART_VERSION >= 13000  // older headers do not have these names
static_assert(cudaErrorContained == 226 && cudaErrorTensorMemoryLeak == 721);
#endif

void throw_cuda_error(cudaError_t status, const char* call) {
  cudaGetLastError();  // told here: the next launch that asks for its own error must not find it
  const std::string advice = advice_on_cuda_error(static_cast<int>(status));
  throw CudaError(concat(call, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status),
                         advice.empty() ? "" : "; ", advice));
}

int cuda_device_count() {
  int count = 0;
  // No driver and no device are ordinary answers here, not errors.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

void synchronize(Device device) {
  if (device.is_cuda()) cuda_check(cudaStreamSynchronize(current_stream()), "synchronize");
}

namespace {
// Streams, allocations and handles belong to the device that is current when they are made.
Device made_current(Device device) {
  cuda_check(cudaSetDevice(device.index), "cudaSetDevice");
  return device;
}

std::string why_no_cuda() {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t status = cudaGetDeviceCount(&count);
  return describe_missing_device(driver, runtime, static_cast<int>(status),
                                 cudaGetErrorString(status));
}
}  // namespace

#else

int cuda_device_count() { return 0; }
void synchronize(Device) {}

namespace {
Device made_current(Device device) { return device; }

std::string why_no_cuda() {
  return "this binary was built without CUDA (configure with -DCBQ_CUDA=ON)";
}
}  // namespace

#endif

Device device_from_name(const std::string& name) {
  if (name == "cpu") return Device::cpu();
  const int count = cuda_device_count();
  if (name == "auto") return count > 0 ? made_current(Device::cuda()) : Device::cpu();
  check(name == "cuda" || name.rfind("cuda:", 0) == 0, "unknown device '", name,
        "'; expected auto, cpu, cuda or cuda:N");
  int index = 0;
  if (name.size() > 5) {
    const std::string digits = name.substr(5);
    check(digits.size() <= 3 && digits.find_first_not_of("0123456789") == std::string::npos,
          "unknown device '", name, "'; expected cuda:N with N a device number");
    index = std::stoi(digits);
  }
  if (count == 0) fail("device '", name, "' cannot be used: ", why_no_cuda(), "; try --device cpu");
  check(index < count, "device '", name, "' does not exist: ", count, " CUDA device(s) here");
  return made_current(Device::cuda(index));
}

}  // namespace cbq
