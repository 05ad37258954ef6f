// A reconstruction step without a model file: the shapes of known models, random weights, and what
// is measured of a window.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cbq/reconstructor.h"

namespace cbq::bench {

/// The sizes that a step's time depends on. LLaMA-1's (Touvron et al. 2023, table 2); "opt-1.3b"
/// has OPT-1.3B's width and depth, and as many weights in a feed-forward part of LLaMA's kind.
struct NamedShape {
  std::string name;
  int64_t hidden, intermediate, heads, blocks;
  int64_t tokens, batch;  // of a step, where no option says otherwise
  int64_t kv_heads = 0;   // of keys and values; 0: as many as heads
};
const std::vector<NamedShape>& named_shapes();
/// Throws std::invalid_argument with the known names.
const NamedShape& shape_of(const std::string& name);
/// The sizes in a model folder's config.json, as blocks of LLaMA's kind whatever the family; steps
/// of 256 tokens. Throws where the heads together are not as wide as the model.
NamedShape shape_of_model(const std::filesystem::path& folder);

struct WorkloadOptions {
  std::string shape = "embedded", model, rounding = "dense", dtype = "auto", device = "auto";
  int64_t window = 2, tokens = 0, batch = 0, segments = 0, rank = 5;  // 0: the usual ones
  int wbits = 4, abits = 16, threads = 0;
  void add_to(CLI::App& app);
};

/// One window of random blocks with quantizers, ready to step.
///
/// Weights are N(0, 1/in), inputs N(0, 1), targets the blocks' own answer in floating point. Only
/// the window's blocks are made, and a vocabulary of one.
struct Workload {
  explicit Workload(const WorkloadOptions& options);

  WorkloadOptions options;  // with the usual values filled in
  NamedShape shape;
  Device device;
  Dtype dtype;
  Settings settings;
  std::unique_ptr<Transformer> model;
  ScheduledWindow window;
  WindowData data;
  std::unique_ptr<Reconstructor> reconstructor;

  /// Weights in the linears of the window; of those, in the ones that read its input.
  int64_t weights() const;
  int64_t first_weights() const;
  /// Bytes of calibration streams: they grow with the segments, everything else with the window.
  int64_t stream_bytes() const;
  /// Segments of step i: they go around.
  std::vector<int64_t> segments_of(int64_t step) const;
  /// What was measured, for a report.
  nlohmann::json description() const;
  /// Weights, inputs, targets, scales and rounding variables, so that another program can take the
  /// same steps; `metadata` goes into the file's header.
  void dump(const std::filesystem::path& path,
            const std::map<std::string, std::string>& metadata) const;
};

/// The least time of a step at the measured ceilings, in seconds: matrix products (the causal half
/// of attention; no gradient of the window's input) at one, weights and rounding variables that
/// must come from memory and go back to it at the other.
struct Floor {
  double linear_flops = 0.0, attention_flops = 0.0, bytes = 0.0;
};
Floor floor_of(const Workload& workload);

}  // namespace cbq::bench
