// A model folder of many safetensors files, written one after the other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "nn/formats/model_files.h"
#include "tensor/tensor.h"

namespace cbq {

/// model-00001-of-00003.safetensors, ... and model.safetensors.index.json, as Hugging Face folders
/// have them and Checkpoint reads them: a model need not be in memory as a whole to be written.
class ShardedWriter {
 public:
  /// For `files` files in `folder`, which is created. Throws std::invalid_argument for none.
  ShardedWriter(std::filesystem::path folder, int64_t files);
  /// Writes the next file; it appears complete or not at all. `stored`: as in
  /// write_safetensors_stored. Throws std::invalid_argument for a tensor that an earlier file has,
  /// or a file too many.
  void add(const std::map<std::string, Tensor>& tensors, const StoredTypes& stored = {});
  /// Writes the index, which makes the folder readable. Throws std::invalid_argument while files
  /// are missing.
  void finish() const;

 private:
  std::filesystem::path folder_;
  int64_t files_, written_ = 0, bytes_ = 0;
  std::map<std::string, std::string> file_of_;  // tensor -> file name
};

}  // namespace cbq
