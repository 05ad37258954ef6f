// A whole run: original activations, pre-processing, windows, hardening, result.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cbq/polish.h"
#include "cbq/quantizers.h"
#include "cbq/reconstructor.h"
#include "cbq/solve_block.h"

namespace cbq {

/// What a caller may watch and steer; everything may be empty.
struct RunHooks {
  std::function<void(const std::string& line)> say;  // plain log lines
  /// done and total reconstruction steps of the run, for a progress bar.
  std::function<void(int64_t done, int64_t total, const std::string& what)> progress;
  /// The same for all work but reconstruction: original activations, pre-processing, solving and
  /// nearest rounding where nothing is learned, reading all parameters.
  std::function<void(int64_t done, int64_t total, const std::string& what)> preparation;
  /// A window is finished; a resumed run begins with those that were finished before it.
  std::function<void(const WindowReport& report)> window;
  /// A block's layers have their solutions (Settings::solver); of a resumed run only blocks that
  /// were not solved before.
  std::function<void(const SolveReport& report)> solved;
  /// Returns true to stop after the current step, layer or pass (Ctrl-C); the run then throws
  /// Interrupted.
  std::function<bool()> interrupted;
  /// Non-empty: state of finished windows (of finished blocks, where a solver runs and nothing is
  /// learned) is kept here, and a run with the same identity goes on
  /// after the last. The caller removes the folder when it has stored the result.
  std::filesystem::path resume_folder;
  /// digest_of(model); computed where it is needed and empty.
  std::string model_digest;
  /// Called once for every block, in order, when it is finished and still in memory: the place to
  /// write it. Required where blocks are loaded on demand, since they are released afterwards.
  std::function<void(int64_t block)> keep_block;
  /// false: nobody needs the floating-point model afterwards. The linears of a finished block then
  /// hold dequantized weights in place of the original ones, and remove_quantizers does not bring
  /// the original ones back.
  bool keep_originals = true;
};

struct RunResult {
  std::optional<PolishReport> polish;  // none without that stage
  std::vector<WindowReport> windows;   // of a resumed run: those finished before it, too
  std::vector<std::string> notes;      // skipped scaling sites, clamped outliers, troubles, ...
  double seconds = 0.0;    // pre-processing and windows; original activations not counted
  int64_t peak_bytes = 0;  // largest of the windows
};

/// Whether a run with these settings reads activations of the original model: for the targets of
/// windows and of polishing, and for a solver that wants them.
bool needs_original_activations(const Settings& settings);

/// Quantizes `model`, to which apply_global_transforms was applied with these settings, in place:
/// every linear of every block gets a QuantizedTransform with hardened codes (none where neither
/// weight nor input is quantized). Settings::solver runs on a block's layers when its window
/// begins, before anything of it is learned; targets always come from the original weights.
/// `original` are activations of the untouched model for `segments`; made in memory when null.
///
/// Where blocks are loaded on demand (open_model), a window's blocks are in memory while it is
/// reconstructed and one more while the original stream moves on, pre-processing happens block by
/// block when a block is loaded, and finished blocks go to `hooks.keep_block` and are released
/// (with Settings::polish_epochs at the end of the run: until then all stay in memory). The codes
/// are those of the model in memory, bit for bit, and either can resume the other. Two runs with
/// equal arguments give equal bytes. Throws std::invalid_argument for impossible settings, segments
/// or layers, before anything is computed; Interrupted when the hook asks for it.
RunResult quantize(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                   const Settings& settings, std::shared_ptr<ActivationCache> original,
                   const RunHooks& hooks);

}  // namespace cbq
