#include "tensor/runtime/device_error.h"

#include <iomanip>
#include <sstream>
#include <utility>

#include "tensor/error.h"

namespace cbq {
namespace {

std::string gigabytes(int64_t bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2) << 1e-9 * static_cast<double>(bytes) << " GB";
  return out.str();
}

CommandAdvice& command_advice() {
  static CommandAdvice advice;
  return advice;
}

/// "; text", or nothing.
std::string behind(const std::string& text) { return text.empty() ? "" : "; " + text; }

}  // namespace

void set_command_advice(CommandAdvice advice) { command_advice() = std::move(advice); }

const std::string& advice_on_memory() { return command_advice().less_memory; }

bool device_is_lost(int code) {
  switch (code) {
    case 214:  // cudaErrorECCUncorrectable
    case 226:  // cudaErrorContained
    case 700:  // cudaErrorIllegalAddress
    case 702:  // cudaErrorLaunchTimeout
    case 709:  // cudaErrorContextIsDestroyed
    case 710:  // cudaErrorAssert
    case 714:  // cudaErrorHardwareStackError
    case 715:  // cudaErrorIllegalInstruction
    case 716:  // cudaErrorMisalignedAddress
    case 717:  // cudaErrorInvalidAddressSpace
    case 718:  // cudaErrorInvalidPc
    case 719:  // cudaErrorLaunchFailure
    case 721:  // cudaErrorTensorMemoryLeak
      return true;
    default:
      return false;
  }
}

std::string advice_on_cuda_error(int code) {
  switch (code) {
    case 2:  // cudaErrorMemoryAllocation
      return "the device is out of memory" + behind(command_advice().less_memory);
    case 35:  // cudaErrorInsufficientDriver
      return "the driver is older than this binary's CUDA: update the driver, or use --device cpu";
    case 46:  // cudaErrorDevicesUnavailable
      return "another process has the device for itself (see nvidia-smi): wait, choose another "
             "with "
             "CUDA_VISIBLE_DEVICES, or use --device cpu";
    case 100:  // cudaErrorNoDevice
      return "no device is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES); --device cpu works "
             "without one";
    case 209:  // cudaErrorNoKernelImageForDevice
    case 222:  // cudaErrorUnsupportedPtxVersion
      return "this binary was not compiled for this device: configure with "
             "-DCMAKE_CUDA_ARCHITECTURES=<its compute capability without the point, 80 for 8.0> "
             "and "
             "build again, or use --device cpu";
    case 802:  // cudaErrorSystemNotReady
    case 803:  // cudaErrorSystemDriverMismatch
    case 804:  // cudaErrorCompatNotSupportedOnDevice
      return "driver and CUDA libraries do not belong together: restart the machine after an "
             "update "
             "of the driver, or use --device cpu";
    default:
      break;
  }
  if (code >= 900 && code <= 908) {  // cudaErrorStreamCapture...
    return "a step cannot be recorded as a CUDA graph: CBQ_GRAPH=0 runs it launch by launch";
  }
  if (!device_is_lost(code)) return "";
  return concat("the device is lost to this process", behind(command_advice().go_on),
                "; CBQ_SYNC=1 names the op if it happens again");
}

std::string advice_on_cublas_error(int status, int device_error) {
  if (const std::string advice = advice_on_cuda_error(device_error); !advice.empty()) return advice;
  switch (status) {
    case 3:  // CUBLAS_STATUS_ALLOC_FAILED
      return advice_on_cuda_error(2);
    case 8:  // CUBLAS_STATUS_ARCH_MISMATCH
      return advice_on_cuda_error(209);
    case 11:  // CUBLAS_STATUS_MAPPING_ERROR
    case 13:  // CUBLAS_STATUS_EXECUTION_FAILED
    case 14:  // CUBLAS_STATUS_INTERNAL_ERROR
      return concat("the device may be lost to this process", behind(command_advice().go_on),
                    "; CBQ_SYNC=1 names the op if it happens again");
    default:
      return "";
  }
}

std::string describe_missing_device(int driver, int runtime, int error, const std::string& text) {
  const auto version = [](int v) { return concat(v / 1000, ".", v % 1000 / 10); };
  if (driver == 0) return "no NVIDIA driver is installed";
  if (driver / 1000 < runtime / 1000) {
    return concat("the driver supports CUDA ", version(driver), ", this binary needs ",
                  version(runtime), " (update the driver)");
  }
  if (error == 0) return "no device is visible (see CUDA_VISIBLE_DEVICES)";
  const std::string advice = advice_on_cuda_error(error);
  return advice.empty() ? text : concat(text, "; ", advice);
}

std::string describe(const MemoryShortage& s, Device device) {
  std::string text =
      concat("out of memory on ", device, ": asked for ", gigabytes(s.asked), " (", s.asked,
             " bytes), with ", gigabytes(s.in_use), " in use and ", gigabytes(s.cached), " cached");
  if (s.total > 0) text += concat("; ", gigabytes(s.free), " of ", gigabytes(s.total), " are free");
  const CommandAdvice& advice = command_advice();
  return text + behind(advice.less_memory) + behind(advice.go_on);
}

}  // namespace cbq
