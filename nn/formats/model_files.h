// What the writers of model folders share: headers of safetensors files, names of shards, the
// index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// Types of the format that no tensor has here, and that other programs expect:
///   i64: values of i32, of shapes;
///   i8:  bytes of u8 that are signed integers (two's complement), of codes.
enum class StoredAs { it_is, i64, i8 };
/// Tensors that are stored in such a type, by name.
using StoredTypes = std::map<std::string, StoredAs>;
/// Throws std::invalid_argument, naming `tensor`, for values that cannot be stored so. Returns the
/// name of the type in the format.
const char* stored_name_of(const std::string& tensor, Dtype dtype, StoredAs as);

/// A tensor that will be written: its name, type and shape.
struct PlannedTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
  StoredAs as = StoredAs::it_is;
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

/// write_safetensors (nn/formats/safetensors.h), with the types of `stored`. Throws
/// std::invalid_argument for a name in it that no tensor has, or one of another type.
void write_safetensors_stored(const std::filesystem::path& path,
                              const std::map<std::string, Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata,
                              const StoredTypes& stored);

/// "model-00001-of-00003.safetensors": the name of file `number`, from 1, of `files` with an index.
std::string shard_name(int64_t number, int64_t files);

/// Writes model.safetensors.index.json. `file_of`: tensor -> file name.
void write_model_index(const std::filesystem::path& folder, int64_t total_bytes,
                       const std::map<std::string, std::string>& file_of);

}  // namespace cbq
