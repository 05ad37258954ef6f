// Exporters: the formats in which a quantized model is written. One file each in this folder; it
// registers itself, and the command line finds it by name.
//
// An exporter sees the model's config, one block at a time, and what the block's quantizers hold
// (cbq/exporters/layer_parts.h). It is used in this order:
//
//   obstacle   before anything is computed or written: can the format hold this result?
//   begin      once
//   add_block  for every block, in order, while that block is in memory
//   finish     the rest: embedding, head, config.json
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cbq/exporters/export_plan.h"
#include "cbq/watch.h"
#include "nn/transformer.h"
#include "quant/registry.h"

namespace cbq {

/// Where and how a folder is written.
struct ExportTarget {
  std::filesystem::path folder;
  Dtype dtype = Dtype::f32;  // of the weights, where the format has a choice
  /// true: a file of weights per block and one for the rest, so that one block at a time need be in
  /// memory; false: one file.
  bool sharded = false;
  /// Folder or file of the model's tokenizer, for formats that hold it; empty: there is none.
  std::filesystem::path tokenizer = {};
};

class Exporter {
 public:
  virtual ~Exporter() = default;
  /// As registered: on the command line.
  virtual std::string name() const = 0;
  /// What the folder holds, in a line.
  virtual std::string help() const = 0;
  /// Types of weights that a user may ask for; the first is the default. Empty: no choice.
  virtual std::vector<Dtype> dtypes() const { return {}; }
  /// Why this format cannot hold the result, in a sentence; "" if it can.
  virtual std::string obstacle(const ExportPlan& plan) const = 0;
  /// Whether this program reads the folder back.
  virtual bool is_read_here() const { return false; }
  /// Whether the folder's weights have other digits than those of this result, which computes in
  /// `computed` and is written in `written`. A run's scores are then those of the folder, if it is
  /// read here.
  virtual bool rounds(const ExportPlan& /*result*/, Dtype /*computed*/, Dtype /*written*/) const {
    return false;
  }

  /// `model` must live until finish(). All three throw std::runtime_error, naming the file, where
  /// the disk fails.
  virtual void begin(Transformer& model, const ExportTarget& target) = 0;
  /// Throws std::invalid_argument naming a layer that is not hardened.
  virtual void add_block(int64_t block) = 0;
  /// Before that the folder cannot be read.
  virtual void finish() = 0;
};

Registry<Exporter>& exporters();

/// Registers T, which must be default-constructible, under its name.
template <class T>
bool register_exporter() {
  return exporters().add(T().name(), [] { return std::make_unique<T>(); });
}

/// begin, all blocks, finish; blocks that are loaded on demand come and go one by one. `poll` is
/// called before every block.
void export_model(Exporter& exporter, Transformer& model, const ExportTarget& target,
                  const Poll& poll = {});

/// "dense: ...; packed: ...": all formats with their help, for the command line.
std::string formats_help();
/// "dense: f32, bf16, f16; ...": the types of weights of the formats that have a choice.
std::string format_dtypes_help();

/// The type of weights that `name` ("" for the default) asks for. Throws std::invalid_argument with
/// the known types, naming `option`, for any other; where the format has no choice, `name` is not
/// looked at.
Dtype export_dtype(const Exporter& exporter, const std::string& option, const std::string& name);

/// Throws std::invalid_argument, naming `option`, the obstacle and the formats that can hold the
/// result, where there is an obstacle.
void check_exportable(const Exporter& exporter, const ExportPlan& plan, const std::string& option);

}  // namespace cbq
