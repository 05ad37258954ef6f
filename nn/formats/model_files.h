// What the writers of model folders share: headers of safetensors files, names of shards, the
// index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// A tensor that will be written: its name, type and shape.
struct PlannedTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
  bool as_i64 = false;  // i32 values, written as I64
  int64_t bytes() const;
};

/// The largest header of a safetensors file, in bytes, that readers accept.
inline constexpr uint64_t max_safetensors_header = 100'000'000;

/// The bytes of a safetensors file in front of its tensors' data: the header and its length. The
/// data follows in the order of `tensors`. Throws std::invalid_argument, naming `path`, for a name
/// that the format cannot have and for a header that is too large.
std::string safetensors_beginning(const std::filesystem::path& path,
                                  const std::vector<PlannedTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata);

/// write_safetensors (nn/formats/safetensors.h), where the i32 tensors named in `as_i64` are
/// written as I64, a type that no tensor has here and that other programs expect of shapes. Throws
/// std::invalid_argument for a name that no i32 tensor has.
void write_safetensors_with_i64(const std::filesystem::path& path,
                                const std::map<std::string, Tensor>& tensors,
                                const std::map<std::string, std::string>& metadata,
                                const std::set<std::string>& as_i64);

/// "model-00001-of-00003.safetensors": the name of file `number`, from 1, of `files` with an index.
std::string shard_name(int64_t number, int64_t files);

/// Writes model.safetensors.index.json. `file_of`: tensor -> file name.
void write_model_index(const std::filesystem::path& folder, int64_t total_bytes,
                       const std::map<std::string, std::string>& file_of);

}  // namespace cbq
