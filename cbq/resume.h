// The state of a run after its last finished window, on disk.
//
//   state.safetensors        quantized stream, variables of blocks that later windows go on with
//                            and the solver's results they started from, reports so far
//   block-<i>.safetensors    packed codes of a finished block, written once
//
// Every file carries the identity of the run (cbq/job_identity.h) and a checksum of its contents,
// and appears complete or not at all; the state is written last, so what it refers to is there.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cbq/job_identity.h"
#include "cbq/reconstructor.h"
#include "nn/safetensors.h"

namespace cbq {

struct RunState {
  int64_t windows = 0;                 // finished windows of the schedule
  int64_t finished = 0;                // finished (hardened) blocks
  Tensor stream;                       // quantized stream behind them
  std::map<std::string, Tensor> live;  // quantizer_state of unfinished blocks
  std::vector<WindowReport> reports;
  std::vector<std::string> solver_notes;
};

class ResumeFolder {
 public:
  /// Nothing is kept.
  ResumeFolder() = default;
  ResumeFolder(std::filesystem::path folder, JobIdentity identity);

  bool enabled() const { return !folder_.empty(); }
  /// The state of an earlier run with this identity; none if there is no such state, or if it or
  /// the file of a finished block is damaged or missing (said through `say`, with the file's name):
  /// the run then starts from its first window. Throws std::runtime_error, with all that is
  /// different, if the state is another run's.
  std::optional<RunState> load(const std::function<void(const std::string&)>& say) const;
  /// quantizer_state of a block that was just hardened.
  void save_block(int64_t block, const std::map<std::string, Tensor>& state) const;
  /// The same back. Throws std::runtime_error for a file that is not there, damaged, or of another
  /// run.
  std::map<std::string, Tensor> load_block(int64_t block) const;
  /// Everything else.
  void save(const RunState& state) const;

 private:
  std::filesystem::path block_path(int64_t block) const;
  SafetensorsFile open(const std::filesystem::path& path) const;
  void write(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
             std::map<std::string, std::string> metadata) const;
  std::filesystem::path folder_;
  JobIdentity identity_;
};

nlohmann::json to_json(const WindowReport& report);
WindowReport window_report_from_json(const nlohmann::json& json);

}  // namespace cbq
