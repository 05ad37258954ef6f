// GGUF: llama.cpp's models in one file, metadata (fields) and tensors. Reader.
//
//   "GGUF" | u32 version (2 or 3) | u64 tensors | u64 fields
//   fields:   string key | u32 type | value; a string is a u64 length and its bytes; an array is a
//             u32 type, a u64 count and its elements
//   tensors:  string name | u32 dimensions | u64 extents, the innermost first | u32 type |
//             u64 offset of its data, a multiple of the alignment ("general.alignment", else 32)
//   padding to the alignment | data
//
// Files come from other people. A file is checked completely when it is opened: after that every
// tensor lies inside the file, overlaps no other one, has the size that its shape and type say, and
// names are unique. Numbers in the file decide about memory only as far as the file itself reaches.
// An error names the file, the field or tensor, and the byte where reading stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nn/gguf/gguf_blocks.h"
#include "tensor/tensor.h"

namespace cbq {

/// Types of a field, as the file numbers them.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};

/// The value of a field: one value or a list of values of one type. Arrays of arrays are read over;
/// no known field is one.
struct GgufValue {
  GgufType type = GgufType::u8;  // of the value, or of a list's elements
  bool is_list = false;
  int64_t count = 1;
  std::string bytes;                 // numbers and booleans as the file has them, end to end
  std::vector<std::string> strings;  // of type string
};

struct GgufTensor {
  const GgufBlockFormat* format = nullptr;
  Shape shape;         // the outermost extent first, as everywhere in this project
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t bytes = 0;

  /// Values of the innermost extent, of which blocks are made.
  int64_t row_values() const { return shape.back(); }
  int64_t rows() const;
  int64_t row_bytes() const { return row_values() / format->values * format->bytes; }
};

class GgufFile {
 public:
  /// Reads and checks everything but the tensors' data.
  /// Throws std::runtime_error for a file that is missing, malformed or not supported.
  static GgufFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue>& fields() const { return fields_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }

  // Checked access to fields. All throw std::runtime_error, naming file and key, for an absent
  // field (unless the function has a fallback), another type, and a number outside the range.

  bool has(const std::string& key) const { return fields_.contains(key); }
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  /// A finite number; integers are numbers, too. An f32 is the shortest decimal that rounds to it.
  double number(const std::string& key) const;
  bool flag(const std::string& key, bool fallback) const;
  std::vector<int64_t> integers(const std::string& key, int64_t low, int64_t high) const;
  std::vector<double> numbers(const std::string& key) const;
  const std::vector<std::string>& texts(const std::string& key) const;

  bool has_tensor(const std::string& name) const { return tensors_.contains(name); }
  /// Throws std::runtime_error for an unknown name.
  const GgufTensor& tensor(const std::string& name) const;
  /// Writes the numbers of the rows [first, first + rows) of a tensor to `out`.
  /// Throws std::runtime_error when the file has become shorter, std::invalid_argument for rows
  /// outside the tensor.
  void read_rows(const GgufTensor& tensor, int64_t first, int64_t rows, float* out) const;
  /// A whole tensor, f32 on the CPU.
  Tensor load(const std::string& name) const;

 private:
  GgufFile() = default;
  class Reader;
  class Descriptor;

  const GgufValue& field(const std::string& key) const;
  void read_tensors(Reader& reader, uint64_t count);

  std::filesystem::path path_;
  std::shared_ptr<const Descriptor> file_;
  uint32_t version_ = 0;
  std::map<std::string, GgufValue> fields_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace cbq
