// safetensors: tensors in a file, by name. Reader by mmap, writer, and checkpoints of many files.
//
//   u64 N (little-endian) | N bytes of JSON | data
//   {"__metadata__": {str: str}, "<name>": {"dtype": "F16", "shape": [..], "data_offsets": [b, e]}}
//
// A file is checked completely when it is opened, by the rules of the format's reference
// implementation (safetensors/src/tensor.rs) and under its names for what is wrong: HeaderTooSmall,
// HeaderTooLarge, InvalidHeaderLength, InvalidHeader, InvalidHeaderDeserialization, InvalidOffset
// (an overlap or a hole), ValidationOverflow, MisalignedSlice, TensorInvalidInfo,
// MetadataIncompleteBuffer (missing or trailing bytes). Stricter than the reference: a duplicate
// name is an error. After that every tensor lies inside the file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace cbq {

/// One entry of a header.
struct TensorInfo {
  std::string dtype;  // the format's name: "F32", "BF16", "I64", ...
  Shape shape;
  int64_t begin = 0;  // bytes from the start of the data
  int64_t bytes = 0;
};

/// The format's name of a dtype ("BF16").
const char* safetensors_name_of(Dtype dtype);

/// What SafetensorsFile::open throws for a file that it could read and that is no safetensors file.
/// The text names the file.
struct MalformedFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class SafetensorsFile {
 public:
  /// Maps the file and checks its header. No tensor is read.
  /// Throws MalformedFile with the path, the kind of fault and the tensor; std::runtime_error for a
  /// file that cannot be opened or mapped.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// Sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return entries_.contains(name); }
  /// Throws std::invalid_argument for an unknown name.
  const TensorInfo& info(const std::string& name) const;
  const std::map<std::string, TensorInfo>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Throws std::invalid_argument for an unknown name and for a dtype that load() cannot give.
  Dtype dtype(const std::string& name) const;

  /// The tensor's bytes in the map, of any dtype; valid while this object lives.
  std::span<const std::byte> bytes(const std::string& name) const;
  /// Whether `name` here and `other_name` in `other` have the same dtype, shape and bytes.
  bool same_tensor(const std::string& name, const SafetensorsFile& other,
                   const std::string& other_name) const;
  /// Copy of a tensor in the dtype of the file (F64, F32, F16, BF16, I32 or U8).
  /// The pages read are given back to the system, so reading a file block by block takes no more
  /// memory than the blocks. Throws std::invalid_argument for an unknown name or another dtype.
  Tensor load(const std::string& name, Device device = Device::cpu()) const;

 private:
  class Map;
  SafetensorsFile() = default;
  void read_header();

  struct MapDeleter {
    void operator()(Map* map) const;
  };

  std::filesystem::path path_;
  std::unique_ptr<Map, MapDeleter> map_;
  int64_t data_begin_ = 0;  // bytes from the start of the file
  std::map<std::string, TensorInfo> entries_;
  std::map<std::string, std::string> metadata_;
};

/// The integer that the field `key` of a file's metadata spells ("42", "-7"). Throws
/// std::runtime_error that names file and field when the field is missing, is no integer or lies
/// outside [low, high].
int64_t metadata_int(const SafetensorsFile& file, const std::string& key,
                     int64_t low = std::numeric_limits<int64_t>::min(),
                     int64_t high = std::numeric_limits<int64_t>::max());

/// Writes tensors (on any device) as the reference implementation does: larger dtypes first, then
/// by name, header padded with spaces to a multiple of 8. The file appears complete or not at all.
/// `metadata` defaults to {"format": "pt"}, without which other libraries refuse a file.
/// Throws std::invalid_argument for an undefined tensor or an impossible name, std::runtime_error
/// when the disk fails us.
void write_safetensors(const std::filesystem::path& path,
                       const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// The tensors of a model folder: model.safetensors, or the shards that
/// model.safetensors.index.json lists. Files stay mapped, not read, until a tensor is asked for.
///
/// The shards decide what there is, the index only which files are shards: a tensor that the index
/// does not list, or lists with another shard, is found in the shard that holds it. What the index
/// lists and no shard has is left out, and missing_reason() tells of it. Where several shards hold
/// a tensor with different bytes, the index decides, and a notice says so.
class Checkpoint {
 public:
  /// `path`: a folder, or a single .safetensors file.
  /// Throws std::runtime_error for a missing or broken file, for an index that names a file outside
  /// the folder or one that is not there, and when two shards hold different tensors of one name
  /// and the index names neither.
  explicit Checkpoint(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// Sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return file_of_.contains(name); }
  const TensorInfo& info(const std::string& name) const { return file_of(name).info(name); }
  Tensor load(const std::string& name, Device device = Device::cpu()) const {
    return file_of(name).load(name, device);
  }
  /// The file that holds a tensor. Throws std::invalid_argument, with similar names, for an unknown
  /// one.
  const SafetensorsFile& file_of(const std::string& name) const;
  /// "the index says that it is in FILE, which does not have it"; empty where the index does not
  /// list `name`, or a file has it.
  std::string missing_reason(const std::string& name) const;
  /// Metadata of the (first) file.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }
  /// Bytes of all tensors.
  int64_t total_bytes() const;

 private:
  void add_shards(const std::filesystem::path& index);
  /// Of the files that hold a tensor, in order, takes the one that the index lists, else the first.
  void choose_file(const std::string& name, const std::vector<size_t>& holders,
                   const std::string& listed, const std::string& index);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;       // tensor -> position in files_
  std::map<std::string, std::string> missing_;  // tensor -> file that should have it
};

}  // namespace cbq
