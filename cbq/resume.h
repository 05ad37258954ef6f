// The state of a run after its last finished window, on disk.
//
//   state.safetensors        quantized stream, variables of blocks that later windows go on with
//                            and the solver's results they started from, reports so far
//   block-<i>.safetensors    packed codes of a finished block, written once
//   polish.safetensors       the last stage, as far as it has come; all blocks are finished then
//
//   state.damaged/           the files of a state that could not be used, of the last such one
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
#include "cbq/polish.h"
#include "cbq/reconstructor.h"
#include "nn/formats/safetensors.h"

namespace cbq {

struct RunState {
  int64_t windows = 0;                 // finished windows of the schedule
  int64_t finished = 0;                // finished (hardened) blocks
  Tensor stream;                       // quantized stream behind them
  std::map<std::string, Tensor> live;  // quantizer_state of unfinished blocks
  std::vector<WindowReport> reports;
  std::vector<std::string> notes;  // of the windows and of solvers, in order
  double seconds = 0.0;            // that the run has taken so far
  int64_t peak_bytes = 0;          // of device memory, so far
};

class ResumeFolder {
 public:
  /// Nothing is kept.
  ResumeFolder() = default;
  ResumeFolder(std::filesystem::path folder, JobIdentity identity);

  bool enabled() const { return !folder_.empty(); }
  /// Whether a state is in the folder, whole or not, of this run or another one.
  static bool has_state(const std::filesystem::path& folder);
  /// Removes the files described above, and the folder if it is then empty; other files stay. Does
  /// nothing where there is none. Errors are ignored.
  static void remove(const std::filesystem::path& folder);
  /// Removes the files of a run that finished no window; a state, also a damaged one, stays.
  static void remove_unfinished(const std::filesystem::path& folder);

  /// The state of an earlier run with this identity; none if there is no such state, or if it or
  /// the file of a finished block is damaged or missing (said through `say`, with the file's name):
  /// the state is then moved to state.damaged, and the run starts from its first window. Throws
  /// std::runtime_error, with all that is different, if the state is another run's. Every other
  /// error (no memory, no permission, ...) passes through and changes nothing.
  std::optional<RunState> load(const std::function<void(const std::string&)>& say) const;
  /// Whether the folder holds a state of this run, with or without the files of its blocks. Changes
  /// nothing, and throws nothing.
  bool holds_own_state() const;
  /// quantizer_state of a block that was just hardened.
  void save_block(int64_t block, const std::map<std::string, Tensor>& state) const;
  /// The same back. Throws std::runtime_error for a file that is not there, damaged, or of another
  /// run.
  std::map<std::string, Tensor> load_block(int64_t block) const;
  /// Everything else.
  void save(const RunState& state) const;
  void save_polish(const PolishState& state) const;
  /// The same back; none if there is no such state, or if it is damaged (said through `say`): the
  /// last stage then starts anew. Throws as load() does for another run's.
  std::optional<PolishState> load_polish(const std::function<void(const std::string&)>& say) const;

 private:
  std::filesystem::path block_path(int64_t block) const;
  SafetensorsFile open(const std::filesystem::path& path) const;
  RunState read() const;
  void set_aside() const;
  void write(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
             std::map<std::string, std::string> metadata) const;
  std::filesystem::path folder_;
  JobIdentity identity_;
};

nlohmann::json to_json(const WindowReport& report);
/// An error names `what`, which is the file that the report comes from.
WindowReport window_report_from_json(const nlohmann::json& json, const std::string& what);

}  // namespace cbq
