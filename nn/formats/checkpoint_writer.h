// The weights of a model folder, written piece by piece.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/formats/atomic_file.h"
#include "nn/formats/model_files.h"

namespace cbq {

/// Writes model.safetensors or, beyond `max_file_bytes`, the files
/// model-00001-of-0000N.safetensors with model.safetensors.index.json, as Checkpoint reads them.
/// Tensors are written in the order of the plan and in pieces of any size, so neither a tensor nor
/// a file is ever in memory as a whole. (write_safetensors and ShardedWriter take whole tensors.)
class CheckpointWriter {
 public:
  /// Throws std::invalid_argument for an empty plan, a repeated name, a name that is not UTF-8, and
  /// more tensors in a file than its header can name.
  CheckpointWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan,
                   int64_t max_file_bytes);
  /// Writes the next bytes. Throws std::invalid_argument when they reach beyond the end of the
  /// tensor that is being written, std::runtime_error when the disk fails.
  void append(const void* bytes, int64_t count);
  /// Completes the last file and writes the index. Throws std::invalid_argument when bytes are
  /// missing.
  void finish();

  int64_t files() const { return static_cast<int64_t>(files_.size()); }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  struct File {
    std::string name;
    size_t begin = 0, end = 0;  // of the plan
  };
  void begin_file();
  void skip_complete_tensors();
  std::string beginning_of(const File& file) const;

  std::filesystem::path folder_;
  std::vector<PlannedTensor> plan_;
  std::vector<File> files_;
  std::unique_ptr<AtomicFile> out_;
  size_t file_ = 0, tensor_ = 0;  // those that are being written
  int64_t written_ = 0;           // bytes of the tensor
  int64_t total_bytes_ = 0;
};

}  // namespace cbq
