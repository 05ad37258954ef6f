#include "nn/gguf/gguf.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>

#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr uint64_t max_name_bytes = 65535;                // of keys and names
constexpr uint64_t max_header_bytes = uint64_t{1} << 30;  // fields and descriptions of tensors
constexpr uint64_t read_ahead = uint64_t{1} << 16;
constexpr int64_t bytes_per_read = int64_t{1} << 20;  // of a tensor
constexpr int max_depth = 8;                          // of arrays of arrays
constexpr uint32_t max_dimensions = 4;                // ggml's limit

/// Bytes of a number or boolean; 0 for a string or an array, nothing for an unknown type.
std::optional<uint64_t> size_of(uint32_t type) {
  constexpr uint64_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  if (type >= std::size(sizes)) return std::nullopt;
  return sizes[type];
}

const char* name_of(GgufType type) {
  constexpr const char* names[] = {"u8",      "i8",     "u16",   "i16", "u32", "i32", "f32",
                                   "boolean", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<uint32_t>(type)];
}

std::string described(const GgufValue& value) {
  return value.is_list ? concat("a list of ", value.count, " ", name_of(value.type))
                       : concat("a value of type ", name_of(value.type));
}

/// Element i, unless it is a string.
template <class T>
T element(const GgufValue& value, size_t i) {
  T result;
  std::memcpy(&result, value.bytes.data() + i * sizeof(T), sizeof(T));
  return result;
}

/// Nothing unless the elements are integers within the range of int64_t.
std::optional<int64_t> integer_of(const GgufValue& value, size_t i) {
  switch (value.type) {
    case GgufType::u8:
      return element<uint8_t>(value, i);
    case GgufType::i8:
      return element<int8_t>(value, i);
    case GgufType::u16:
      return element<uint16_t>(value, i);
    case GgufType::i16:
      return element<int16_t>(value, i);
    case GgufType::u32:
      return element<uint32_t>(value, i);
    case GgufType::i32:
      return element<int32_t>(value, i);
    case GgufType::i64:
      return element<int64_t>(value, i);
    case GgufType::u64: {
      const auto large = element<uint64_t>(value, i);
      if (large > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
      return static_cast<int64_t>(large);
    }
    default:
      return std::nullopt;
  }
}

/// Nothing unless the elements are finite numbers.
std::optional<double> number_of(const GgufValue& value, size_t i) {
  double number = 0.0;
  if (value.type == GgufType::f32) {
    // The shortest decimal that rounds to these 32 bits: the file's writer had 1e-5, not 9.99..e-6.
    const auto single = element<float>(value, i);
    if (!std::isfinite(single)) return std::nullopt;
    number = std::stod(fmt::format("{}", single));
  } else if (value.type == GgufType::f64) {
    number = element<double>(value, i);
  } else if (const auto integer = integer_of(value, i)) {
    number = static_cast<double>(*integer);
  } else {
    return std::nullopt;
  }
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

}  // namespace

int64_t GgufTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

// ---- bytes of the file ------------------------------------------------------------------------

class GgufFile::Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path) : path_(path) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0)
      fail_to_open(errno, "cannot open ", path.string(), ": ", std::strerror(errno));
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(descriptor_);
      fail(path.string(), " is not a regular file");
    }
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~Descriptor() { ::close(descriptor_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  uint64_t size() const { return size_; }
  /// Reads the bytes [begin, begin + count), which lie within size().
  void read(uint64_t begin, uint64_t count, void* out) const {
    auto* at = static_cast<char*>(out);
    while (count > 0) {
      const ssize_t got = ::pread(descriptor_, at, count, static_cast<off_t>(begin));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("cannot read ", path_.string(), ": ", std::strerror(errno));
      if (got == 0) fail(path_.string(), " has become shorter while it was read, at byte ", begin);
      at += got;
      begin += static_cast<uint64_t>(got);
      count -= static_cast<uint64_t>(got);
    }
  }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// Reads the header from front to back. `what` in every function says what is read.
class GgufFile::Reader {
 public:
  Reader(const Descriptor& file, const std::filesystem::path& path)
      : file_(file), path_(path.string()), end_(std::min(file.size(), max_header_bytes)) {}

  uint64_t at() const { return at_; }

  [[noreturn]] void refuse(const std::string& message) const {
    fail(path_, ", byte ", at_, ": ", message);
  }
  /// Refuses unless `count` elements of `size` bytes may follow; checked before memory is taken.
  void require(uint64_t count, uint64_t size, const std::string& what) const {
    const uint64_t left = end_ - at_;
    if (count <= left / size) return;
    const bool is_long = end_ < file_.size();
    refuse(concat(what, " would need ", count, " x ", size, " bytes, of the ",
                  is_long ? "1 GiB that a header may have " : "file ", left, " are left",
                  is_long ? "" : " (truncated? fetch it again)"));
  }
  void bytes(void* out, uint64_t count, const std::string& what) {
    require(count, 1, what);
    auto* to = static_cast<char*>(out);
    while (count > 0) {
      if (at_ < buffer_begin_ || at_ >= buffer_begin_ + buffer_.size()) fill();
      const uint64_t offset = at_ - buffer_begin_;
      const uint64_t part = std::min<uint64_t>(count, buffer_.size() - offset);
      std::memcpy(to, buffer_.data() + offset, part);
      to += part;
      at_ += part;
      count -= part;
    }
  }
  template <class T>
  T number(const std::string& what) {
    T value;
    bytes(&value, sizeof value, what);
    return value;
  }
  std::string string(const std::string& what, uint64_t max_bytes) {
    const auto size = number<uint64_t>("the length of " + what);
    if (size > max_bytes) {
      refuse(
          concat(what, " is said to have ", size, " bytes; at most ", max_bytes, " are allowed"));
    }
    require(size, 1, what);
    std::string text(size, '\0');
    bytes(text.data(), size, what);
    return text;
  }
  std::string name(const std::string& what) {
    std::string text = string(what, max_name_bytes);
    if (text.empty() || !is_utf8(text)) refuse(what + " is empty or not UTF-8");
    return text;
  }

  GgufValue value(const std::string& key) {
    const std::string what = "field \"" + key + "\"";
    const auto type = number<uint32_t>("the type of " + what);
    if (!size_of(type)) refuse(concat(what, " has the unknown type ", type));
    GgufValue result;
    if (static_cast<GgufType>(type) == GgufType::array) return list(what, 1);
    result.type = static_cast<GgufType>(type);
    elements(&result, what);
    return result;
  }

 private:
  void fill() {
    buffer_begin_ = at_;
    buffer_.resize(std::min(read_ahead, end_ - at_));
    file_.read(at_, buffer_.size(), buffer_.data());
  }

  GgufValue list(const std::string& what, int depth) {
    if (depth > max_depth) refuse(concat(what, ": arrays are nested deeper than ", max_depth));
    const auto type = number<uint32_t>("the type of " + what);
    if (!size_of(type)) refuse(concat(what, " is a list of the unknown type ", type));
    const auto count = number<uint64_t>("the number of elements of " + what);
    // The smallest element: a number, a string's length, an array's type and count.
    const uint64_t least = static_cast<GgufType>(type) == GgufType::array    ? 12
                           : static_cast<GgufType>(type) == GgufType::string ? 8
                                                                             : *size_of(type);
    require(count, least, what);
    GgufValue result;
    result.type = static_cast<GgufType>(type);
    result.is_list = true;
    result.count = static_cast<int64_t>(count);
    if (result.type == GgufType::array) {
      for (uint64_t i = 0; i < count; ++i) list(what, depth + 1);  // checked, not kept
    } else {
      elements(&result, what);
    }
    return result;
  }

  void elements(GgufValue* value, const std::string& what) {
    const auto count = static_cast<uint64_t>(value->count);
    if (value->type == GgufType::string) {
      for (uint64_t i = 0; i < count; ++i) value->strings.push_back(string(what, max_header_bytes));
      return;
    }
    value->bytes.resize(count * *size_of(static_cast<uint32_t>(value->type)));
    bytes(value->bytes.data(), value->bytes.size(), what);
    if (value->type != GgufType::boolean) return;
    if (value->bytes.find_first_not_of(std::string("\0\1", 2)) != std::string::npos) {
      refuse(what + " holds a boolean that is neither 0 nor 1");
    }
  }

  const Descriptor& file_;
  std::string path_;
  uint64_t end_;
  uint64_t at_ = 0;
  uint64_t buffer_begin_ = 0;
  std::vector<char> buffer_;
};

// ---- opening ----------------------------------------------------------------------------------

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile file;
  file.path_ = path;
  file.file_ = std::make_shared<const Descriptor>(path);
  Reader reader(*file.file_, path);
  char magic[4];
  reader.bytes(magic, sizeof magic, "the word GGUF");
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    fail(path.string(), " is not a GGUF file: it does not begin with the letters GGUF");
  }
  file.version_ = reader.number<uint32_t>("the version");
  if (file.version_ != 2 && file.version_ != 3) {
    const bool swapped = (file.version_ & 0xffff) == 0 && file.version_ != 0;
    reader.refuse(swapped
                      ? "this is a big-endian GGUF file, which is not supported"
                      : concat("version ", file.version_,
                               " of GGUF is not supported, only 2 and 3; convert the file with ",
                               "a newer llama.cpp"));
  }
  const auto tensors = reader.number<uint64_t>("the number of tensors");
  const auto fields = reader.number<uint64_t>("the number of fields");
  // The smallest field: a key of one byte and a value of one; the smallest tensor: one extent.
  reader.require(fields, 8 + 1 + 4 + 1, concat("a list of ", fields, " fields"));
  reader.require(tensors, 8 + 1 + 4 + 8 + 4 + 8, concat("a list of ", tensors, " tensors"));
  for (uint64_t i = 0; i < fields; ++i) {
    const std::string key = reader.name(concat("the key of field ", i));
    if (file.fields_.contains(key)) reader.refuse("there are two fields \"" + key + "\"");
    file.fields_.emplace(key, reader.value(key));
  }
  file.read_tensors(reader, tensors);
  return file;
}

void GgufFile::read_tensors(Reader& reader, uint64_t count) {
  const uint64_t alignment =
      has("general.alignment")
          ? static_cast<uint64_t>(integer("general.alignment", 1, int64_t{1} << 30))
          : 32;
  if (!std::has_single_bit(alignment)) {
    reader.refuse(concat("\"general.alignment\" is ", alignment, ", not a power of two"));
  }
  std::vector<std::pair<uint64_t, std::string>> order;  // by offset
  for (uint64_t i = 0; i < count; ++i) {
    const std::string name = reader.name(concat("the name of tensor ", i));
    const std::string what = "tensor \"" + name + "\"";
    if (tensors_.contains(name)) reader.refuse("there are two tensors \"" + name + "\"");
    const auto dimensions = reader.number<uint32_t>("the number of dimensions of " + what);
    if (dimensions < 1 || dimensions > max_dimensions) {
      reader.refuse(concat(what, " has ", dimensions, " dimensions; 1 to 4 are allowed"));
    }
    GgufTensor tensor;
    uint64_t values = 1;
    for (uint32_t d = 0; d < dimensions; ++d) {
      const auto extent = reader.number<uint64_t>("the extents of " + what);
      if (extent < 1 || extent > uint64_t{std::numeric_limits<int64_t>::max()} ||
          __builtin_mul_overflow(values, extent, &values)) {
        reader.refuse(concat(what, " has the extent ", extent,
                             extent < 1 ? ": tensors without values are not allowed"
                                        : ": its number of values exceeds 64 bits"));
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
    }
    const auto type = reader.number<uint32_t>("the type of " + what);
    tensor.format = find_gguf_format(type);
    if (tensor.format == nullptr) {
      reader.refuse(concat(what, " is of the type ", gguf_type_name(type),
                           ", which is not supported; supported: ", known_gguf_formats()));
    }
    const auto block = static_cast<uint64_t>(tensor.format->values);
    if (static_cast<uint64_t>(tensor.row_values()) % block != 0) {
      reader.refuse(concat(what, " has rows of ", tensor.row_values(), " values, but a block of ",
                           tensor.format->name, " has ", block));
    }
    if (__builtin_mul_overflow(values / block, static_cast<uint64_t>(tensor.format->bytes),
                               &tensor.bytes)) {
      reader.refuse(concat(what, ": its size exceeds 64 bits"));
    }
    tensor.begin = reader.number<uint64_t>("the offset of " + what);
    if (tensor.begin % alignment != 0) {
      reader.refuse(concat(what, " has the offset ", tensor.begin,
                           ", which is not a multiple of the alignment ", alignment));
    }
    order.emplace_back(tensor.begin, name);
    tensors_.emplace(name, std::move(tensor));
  }
  const uint64_t data = (reader.at() + alignment - 1) / alignment * alignment;
  std::sort(order.begin(), order.end());
  uint64_t end = 0;  // of the tensor before, from the start of the data
  std::string before;
  for (const auto& [offset, name] : order) {
    GgufTensor& tensor = tensors_.at(name);
    if (offset < end) {
      fail(path_.string(), ": tensor \"", name, "\" begins at byte ", offset,
           " of the data, within tensor \"", before, "\"");
    }
    if (__builtin_add_overflow(offset, tensor.bytes, &end) || data > file_->size() ||
        end > file_->size() - data) {
      fail(path_.string(), ": tensor \"", name, "\" has ", tensor.bytes, " bytes from byte ",
           offset, " of the data, but the file has only ",
           data > file_->size() ? 0 : file_->size() - data,
           " bytes of data (truncated? fetch it again)");
    }
    tensor.begin = data + offset;
    before = name;
  }
}

// ---- fields -----------------------------------------------------------------------------------

const GgufValue& GgufFile::field(const std::string& key) const {
  const auto at = fields_.find(key);
  if (at == fields_.end()) fail(path_.string(), ": the field \"", key, "\" is missing");
  return at->second;
}

std::string GgufFile::text(const std::string& key) const {
  const GgufValue& value = field(key);
  if (value.is_list || value.type != GgufType::string) {
    fail(path_.string(), ": \"", key, "\" must be a string, is ", described(value));
  }
  if (!is_utf8(value.strings[0])) fail(path_.string(), ": \"", key, "\" is not UTF-8");
  return value.strings[0];
}

std::string GgufFile::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

int64_t GgufFile::integer(const std::string& key, int64_t low, int64_t high) const {
  const GgufValue& value = field(key);
  if (value.is_list)
    fail(path_.string(), ": \"", key, "\" must be one integer, is ", described(value));
  return integers(key, low, high)[0];
}

double GgufFile::number(const std::string& key) const {
  const GgufValue& value = field(key);
  if (value.is_list)
    fail(path_.string(), ": \"", key, "\" must be one number, is ", described(value));
  return numbers(key)[0];
}

bool GgufFile::flag(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const GgufValue& value = field(key);
  if (value.is_list || value.type != GgufType::boolean) {
    fail(path_.string(), ": \"", key, "\" must be a boolean, is ", described(value));
  }
  return value.bytes[0] != 0;
}

std::vector<int64_t> GgufFile::integers(const std::string& key, int64_t low, int64_t high) const {
  const GgufValue& value = field(key);
  std::vector<int64_t> all;
  for (size_t i = 0; i < static_cast<size_t>(value.count); ++i) {
    const std::optional<int64_t> one = integer_of(value, i);
    if (!one) {
      fail(path_.string(), ": \"", key, "\" must hold integers below 2^63, is ", described(value));
    }
    if (*one < low || *one > high) {
      fail(path_.string(), ": \"", key, "\"", value.is_list ? concat(", element ", i) : "", " is ",
           *one, ", outside [", low, ", ", high, "]");
    }
    all.push_back(*one);
  }
  return all;
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
  const GgufValue& value = field(key);
  std::vector<double> all;
  for (size_t i = 0; i < static_cast<size_t>(value.count); ++i) {
    const std::optional<double> one = number_of(value, i);
    if (!one) {
      fail(path_.string(), ": \"", key, "\" must hold finite numbers, but element ", i, " of ",
           described(value), " is not a finite number");
    }
    all.push_back(*one);
  }
  return all;
}

const std::vector<std::string>& GgufFile::texts(const std::string& key) const {
  const GgufValue& value = field(key);
  if (!value.is_list || value.type != GgufType::string) {
    fail(path_.string(), ": \"", key, "\" must be a list of strings, is ", described(value));
  }
  return value.strings;
}

// ---- tensors ----------------------------------------------------------------------------------

const GgufTensor& GgufFile::tensor(const std::string& name) const {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) fail(path_.string(), " has no tensor \"", name, "\"");
  return at->second;
}

void GgufFile::read_rows(const GgufTensor& tensor, int64_t first, int64_t rows, float* out) const {
  check(first >= 0 && rows >= 0 && first <= tensor.rows() - rows, path_.string(), ": rows [", first,
        ", ", first, " + ", rows, ") of a tensor with ", tensor.rows());
  const GgufBlockFormat& format = *tensor.format;
  // A row may be longer than what is read at once, so blocks are counted, not rows.
  int64_t left = rows * (tensor.row_values() / format.values);
  uint64_t begin = tensor.begin + static_cast<uint64_t>(first * tensor.row_bytes());
  const int64_t blocks_at_once = bytes_per_read / format.bytes;
  std::vector<std::byte> bytes(static_cast<size_t>(std::min(left, blocks_at_once) * format.bytes));
  while (left > 0) {
    const int64_t blocks = std::min(left, blocks_at_once);
    const auto count = static_cast<uint64_t>(blocks * format.bytes);
    file_->read(begin, count, bytes.data());
    format.dequantize(bytes.data(), blocks, out);
    out += blocks * format.values;
    begin += count;
    left -= blocks;
  }
}

Tensor GgufFile::load(const std::string& name) const {
  const GgufTensor& source = tensor(name);
  Tensor result(source.shape, Dtype::f32, Device::cpu());
  read_rows(source, 0, source.rows(), result.data<float>());
  return result;
}

}  // namespace cbq
