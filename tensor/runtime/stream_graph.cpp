#include "tensor/runtime/stream_graph.h"

#include "tensor/error.h"
#include "tensor/runtime/cpu_recording.h"
#include "tensor/runtime/device_profile.h"
#include "tensor/runtime/environment.h"
#include "tensor/runtime/stream.h"

namespace cbq {

// begin() and end() stand around the step; abandon() takes the place of end() when it threw.
struct StepGraph::Recorder {
  explicit Recorder(Device d) : device(d) {}

#ifdef CBQ_CUDA
  ~Recorder() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  }
  void begin() {
    if (!device.is_cuda()) return Recording::set_active(&recording);
    // Thread-local: what other host threads do is no business of this stream.
    cuda_check(cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
  }
  void end() {
    if (!device.is_cuda()) return Recording::set_active(nullptr);
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(current_stream(), &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    cuda_check(status, "cudaGraphInstantiate");
  }
  void abandon() noexcept {
    if (!device.is_cuda()) {
      Recording::set_active(nullptr);
      recording.clear();
      return;
    }
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(current_stream(), &status) == cudaSuccess &&
        status != cudaStreamCaptureStatusNone) {
      cudaGraph_t graph = nullptr;
      cudaStreamEndCapture(current_stream(), &graph);  // an error if the capture broke: no matter
      if (graph != nullptr) cudaGraphDestroy(graph);
    }
    cudaGetLastError();
  }
  void replay() {
    if (!device.is_cuda()) return recording.replay();
    cuda_check(cudaGraphLaunch(executable, current_stream()), "cudaGraphLaunch");
  }
  cudaGraphExec_t executable = nullptr;
#else
  void begin() { Recording::set_active(&recording); }
  void end() { Recording::set_active(nullptr); }
  void abandon() noexcept {
    Recording::set_active(nullptr);
    recording.clear();
  }
  void replay() { recording.replay(); }
#endif

  Device device;
  Recording recording;
};

bool StepGraph::wanted(Device device) {
  const std::string graph = environment_value("CBQ_GRAPH");
  if (!device.is_cuda()) return graph == "1";
  return graph != "0" && environment_value("CBQ_SYNC") != "1" && DeviceProfile::active() == nullptr;
}

StepGraph::StepGraph(Device device)
    : device_(device), pool_(device), recorder_(std::make_unique<Recorder>(device)) {}

StepGraph::~StepGraph() = default;

void StepGraph::warm_up(const std::function<void()>& step) {
  const MemoryPool::Use own(pool_);
  step();
}

bool StepGraph::capture(const std::function<void()>& step) {
  check(!captured_, "StepGraph: captured already");
  const MemoryPool::Use own(pool_);
  const int64_t transfers = host_transfers();
  try {
    recorder_->begin();
    step();
    if (host_transfers() != transfers) {
      recorder_->abandon();
      trouble_ = "the step moves elements between host and device";
      return false;
    }
    recorder_->end();
  } catch (const std::runtime_error& error) {  // CUDA refuses, or memory is short
    recorder_->abandon();
    trouble_ = error.what();
    return false;
  } catch (...) {
    recorder_->abandon();
    throw;
  }
  captured_ = true;
  return true;
}

void StepGraph::replay() {
  check(captured_, "StepGraph: nothing has been captured");
  recorder_->replay();
}

}  // namespace cbq
