// A whole run: original activations, pre-processing, windows, hardening, result.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cbq/reconstructor.h"

namespace cbq {

/// What a caller may watch and steer.
struct RunHooks {
  std::function<void(const std::string& line)> say;                      // plain log lines
  /// done and total reconstruction steps of the run, for a progress bar; may be empty.
  std::function<void(int64_t done, int64_t total, const std::string& what)> progress;
  /// Returns true to stop after the current step (Ctrl-C); the run then throws Interrupted.
  std::function<bool()> interrupted;
  /// Non-empty: state of finished windows is kept here, and a run with the same hash goes on after the last.
  std::filesystem::path resume_folder;
};

struct Interrupted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct RunResult {
  std::vector<WindowReport> windows;
  std::vector<std::string> notes;   // skipped scaling sites, clamped outliers, ...
  double seconds = 0.0;             // reconstruction, original activations not counted
  int64_t peak_bytes = 0;           // largest of the windows
};

/// Quantizes `model` in place: every linear of every block gets a QuantizedTransform with hardened codes.
/// `original` are activations of the untouched model for `segments`; made in memory when null.
/// Two runs with equal arguments give equal bytes.
RunResult quantize(Transformer& model, const std::vector<std::vector<int32_t>>& segments,
                   const Settings& settings, std::shared_ptr<ActivationCache> original,
                   const RunHooks& hooks);

/// Removes all transforms: the model is the floating-point one again (weights changed by pre-processing stay changed).
void remove_quantizers(Transformer& model);

/// Token segments sampled from the model itself at temperature 1 (data-free calibration): `count` segments of
/// `length` ids that start with BOS. Deterministic in the seed.
std::vector<std::vector<int32_t>> sample_segments(Transformer& model, int64_t count, int64_t length,
                                                  uint64_t seed);

}  // namespace cbq
