#include "nn/formats/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <new>
#include <optional>

#include "nn/formats/json.h"
#include "nn/formats/model_files.h"
#include "nn/formats/unicode.h"

namespace cbq {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr uint64_t length_bytes = 8;
constexpr uint64_t max_header = max_safetensors_header;
constexpr size_t bytes_at_once = size_t{16} << 20;  // copied out of the map

struct FormatDtype {
  const char* name;
  int bits;
  std::optional<Dtype> ours;
};

// In the reference's order, which is the order of alignment; the writer puts the last ones first.
constexpr FormatDtype format_dtypes[] = {
    {"BOOL", 8, {}},         {"F4", 4, {}},           {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},      {"U8", 8, Dtype::u8},    {"I8", 8, {}},
    {"F8_E5M2", 8, {}},      {"F8_E4M3", 8, {}},      {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},  {"F8_E5M2FNUZ", 8, {}},  {"I16", 16, {}},
    {"U16", 16, {}},         {"F16", 16, Dtype::f16}, {"BF16", 16, Dtype::bf16},
    {"I32", 32, Dtype::i32}, {"U32", 32, {}},         {"F32", 32, Dtype::f32},
    {"C64", 64, {}},         {"F64", 64, Dtype::f64}, {"I64", 64, {}},
    {"U64", 64, {}}};

const FormatDtype* find_dtype(const std::string& name) {
  const auto at = std::find_if(std::begin(format_dtypes), std::end(format_dtypes),
                               [&](const FormatDtype& d) { return name == d.name; });
  return at == std::end(format_dtypes) ? nullptr : at;
}

const FormatDtype* find_dtype(Dtype dtype) {
  return std::find_if(std::begin(format_dtypes), std::end(format_dtypes),
                      [&](const FormatDtype& d) { return d.ours == dtype; });
}

// a * b, or nothing when it exceeds 64 bits.
std::optional<uint64_t> product(uint64_t a, uint64_t b) {
  uint64_t result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// The bytes that a shape and dtype take. `where` = "<path>: ", for errors.
uint64_t checked_size(const std::string& where, const std::string& name, const TensorInfo& info) {
  std::optional<uint64_t> bits = 1;
  for (int64_t extent : info.shape) {
    if (bits) bits = product(*bits, static_cast<uint64_t>(extent));
  }
  if (bits) bits = product(*bits, static_cast<uint64_t>(find_dtype(info.dtype)->bits));
  const std::string tensor = concat("tensor \"", name, "\" ", info.dtype, info.shape);
  if (!bits) fail(where, "ValidationOverflow: the size of ", tensor, " exceeds 64 bits");
  if (*bits % 8 != 0) fail(where, "MisalignedSlice: ", tensor, " does not end on a whole byte");
  return *bits / 8;
}

// Parsed header, with the end of each tensor still as the file has it.
struct Entry {
  std::string name;
  TensorInfo info;
  uint64_t begin, end;
};

uint64_t unsigned_of(const nlohmann::json& value, const std::string& what) {
  if (!value.is_number_unsigned()) {
    fail(what, ": extents and offsets must be non-negative integers");
  }
  return value.get<uint64_t>();
}

Entry parse_entry(const std::string& name, const nlohmann::json& value, const std::string& where) {
  const std::string what = concat(where, "InvalidHeaderDeserialization: tensor \"", name, "\"");
  Entry entry{name, {}, 0, 0};
  entry.info.dtype = json_string(json_at(value, "dtype", what), "dtype", what);
  if (find_dtype(entry.info.dtype) == nullptr) {
    fail(what, " has the unknown dtype \"", entry.info.dtype, "\"");
  }
  const nlohmann::json& shape = json_at(value, "shape", what);
  const nlohmann::json& offsets = json_at(value, "data_offsets", what);
  if (!shape.is_array() || !offsets.is_array() || offsets.size() != 2) {
    fail(what, ": \"shape\" must be a list, \"data_offsets\" a pair");
  }
  for (const nlohmann::json& extent : shape) {
    const uint64_t n = unsigned_of(extent, what);
    if (n > uint64_t{std::numeric_limits<int64_t>::max()}) {
      fail(where, "ValidationOverflow: tensor \"", name, "\" has the extent ", n);
    }
    entry.info.shape.push_back(static_cast<int64_t>(n));
  }
  entry.begin = unsigned_of(offsets[0], what);
  entry.end = unsigned_of(offsets[1], what);
  return entry;
}

std::map<std::string, std::string> parse_metadata(const nlohmann::json& value,
                                                  const std::string& where) {
  std::map<std::string, std::string> metadata;
  if (value.is_null()) return metadata;
  const std::string what = where + "InvalidHeaderDeserialization";
  if (!value.is_object()) fail(what, ": \"__metadata__\" must be an object of strings");
  for (const auto& [key, text] : value.items()) metadata[key] = json_string(text, key, what);
  return metadata;
}

// Tensors must tile the data from its first byte to its last.
std::map<std::string, TensorInfo> checked_entries(std::vector<Entry> entries, uint64_t data_bytes,
                                                  const std::string& where) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t at = 0;
  std::map<std::string, TensorInfo> result;
  for (Entry& entry : entries) {
    if (entry.begin != at || entry.end < entry.begin) {
      fail(where, "InvalidOffset: tensor \"", entry.name, "\" has the bytes [", entry.begin, ", ",
           entry.end, "), expected to begin at ", at, " (tensors overlap or leave a hole)");
    }
    const uint64_t size = checked_size(where, entry.name, entry.info);
    if (size != entry.end - entry.begin) {
      fail(where, "TensorInvalidInfo: tensor \"", entry.name, "\" ", entry.info.dtype,
           entry.info.shape, " takes ", size, " bytes, its offsets hold ", entry.end - entry.begin);
    }
    at = entry.end;
    // Beyond the file, and perhaps beyond a signed number: an error, unless a later tensor is one.
    if (at > data_bytes) continue;
    entry.info.begin = static_cast<int64_t>(entry.begin);
    entry.info.bytes = static_cast<int64_t>(size);
    result.emplace(std::move(entry.name), std::move(entry.info));
  }
  if (at != data_bytes) {
    fail(where, "MetadataIncompleteBuffer: the header describes ", at,
         " bytes of data, the file has ", data_bytes,
         at > data_bytes ? " (truncated? fetch it again)" : " (trailing bytes)");
  }
  return result;
}

}  // namespace

const char* safetensors_name_of(Dtype dtype) { return find_dtype(dtype)->name; }

// The file in memory, read-only. Another program that truncates the file meanwhile would fault us;
// this project's writers never do (they rename).
class SafetensorsFile::Map {
 public:
  explicit Map(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
      fail_to_open(errno, "cannot open ", path.string(), ": ", std::strerror(errno));
    struct stat status {};
    const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = regular ? static_cast<size_t>(status.st_size) : 0;
    if (size_ > 0) at_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (!regular) fail(path.string(), " is not a regular file");
    if (at_ == MAP_FAILED) fail("cannot map ", path.string(), ": ", std::strerror(error));
  }
  ~Map() {
    if (size_ > 0 && at_ != MAP_FAILED) ::munmap(at_, size_);
  }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;

  const char* data() const { return static_cast<const char*>(at_); }
  size_t size() const { return size_; }
  // The pages wholly inside [begin, begin + count) leave our memory; the page cache may keep them.
  void forget(size_t begin, size_t count) const {
    const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t first = (begin + page - 1) / page * page;
    const size_t last = (begin + count) / page * page;
    if (first < last) ::madvise(static_cast<char*>(at_) + first, last - first, MADV_DONTNEED);
  }

 private:
  void* at_ = nullptr;
  size_t size_ = 0;
};

void SafetensorsFile::MapDeleter::operator()(Map* map) const { delete map; }

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.map_.reset(new Map(path));
  try {
    file.read_header();
  } catch (const std::bad_alloc&) {  // no fault of the file's
    throw;
  } catch (const std::exception& fault) {
    throw MalformedFile(fault.what());
  }
  return file;
}

void SafetensorsFile::read_header() {
  const std::string where = path_.string() + ": ";
  const char* data = map_->data();
  const uint64_t size = map_->size();
  if (size < length_bytes) fail(where, "HeaderTooSmall: a file of ", size, " bytes");
  uint64_t header = 0;
  std::memcpy(&header, data, length_bytes);
  if (header > max_header) {
    fail(where, "HeaderTooLarge: ", header, " bytes, at most ", max_header, " are allowed");
  }
  if (header > size - length_bytes) {
    fail(where, "InvalidHeaderLength: a header of ", header, " bytes in a file of ", size);
  }
  const std::string_view text(data + length_bytes, header);
  if (!is_utf8(text)) fail(where, "InvalidHeader: not UTF-8");
  const std::string what = where + "InvalidHeaderDeserialization";
  const nlohmann::json json = parse_json(text, what);
  if (!json.is_object()) fail(what, ": the header is not an object");
  std::vector<Entry> entries;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(value, where);
    } else {
      entries.push_back(parse_entry(name, value, where));
    }
  }
  data_begin_ = static_cast<int64_t>(length_bytes + header);
  entries_ = checked_entries(std::move(entries), size - length_bytes - header, where);
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& entry : entries_) names.push_back(entry.first);
  return names;
}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto at = entries_.find(name);
  check(at != entries_.end(), path_, " has no tensor \"", name, "\"");
  return at->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const TensorInfo& entry = info(name);
  return {reinterpret_cast<const std::byte*>(map_->data() + data_begin_ + entry.begin),
          static_cast<size_t>(entry.bytes)};
}

bool SafetensorsFile::same_tensor(const std::string& name, const SafetensorsFile& other,
                                  const std::string& other_name) const {
  const TensorInfo &a = info(name), &b = other.info(other_name);
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const std::byte *ours = bytes(name).data(), *theirs = other.bytes(other_name).data();
  const auto size = static_cast<size_t>(a.bytes);
  bool same = true;
  for (size_t at = 0; at < size && same; at += bytes_at_once) {
    const size_t count = std::min(bytes_at_once, size - at);
    same = std::memcmp(ours + at, theirs + at, count) == 0;
    map_->forget(static_cast<size_t>(data_begin_ + a.begin), at + count);
    other.map_->forget(static_cast<size_t>(other.data_begin_ + b.begin), at + count);
  }
  return same;
}

Dtype SafetensorsFile::dtype(const std::string& name) const {
  const TensorInfo& entry = info(name);
  const std::optional<Dtype> dtype = find_dtype(entry.dtype)->ours;
  check(
      dtype.has_value(), path_, ": tensor \"", name, "\" is ", entry.dtype,
      "; this program computes with F64, F32, F16, BF16, I32 and U8: convert the checkpoint first");
  return *dtype;
}

Tensor SafetensorsFile::load(const std::string& name, Device device) const {
  const TensorInfo& entry = info(name);
  Tensor tensor(entry.shape, dtype(name), device);
  const std::span<const std::byte> source = bytes(name);
  const auto begin = static_cast<size_t>(data_begin_ + entry.begin);
  // In parts, so that never more of the file than one of them counts as our memory.
  for (size_t at = 0; at < source.size(); at += bytes_at_once) {
    const size_t count = std::min(bytes_at_once, source.size() - at);
    copy_bytes(static_cast<std::byte*>(tensor.raw()) + at, device, source.data() + at,
               Device::cpu(), static_cast<int64_t>(count));
    map_->forget(begin, at + count);
  }
  return tensor;
}

int64_t metadata_int(const SafetensorsFile& file, const std::string& key, int64_t low,
                     int64_t high) {
  const std::string where = concat(file.path().string(), ": metadata \"", key, "\" ");
  const auto field = file.metadata().find(key);
  if (field == file.metadata().end()) fail(where, "is missing");
  const std::string& text = field->second;
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || rest != end || value < low || value > high) {
    fail(where, "must be an integer within [", low, ", ", high, "], is \"", text.substr(0, 100),
         "\"");
  }
  return value;
}

void write_safetensors(const std::filesystem::path& path,
                       const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  write_safetensors_stored(path, tensors, metadata, {});
}

void write_safetensors_stored(const std::filesystem::path& path,
                              const std::map<std::string, Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata,
                              const StoredTypes& stored) {
  for (const auto& [name, as] : stored) {
    check(tensors.contains(name), "write_safetensors: there is no tensor \"", name,
          "\", which has a type to be stored in");
  }
  for (const auto& [name, tensor] : tensors) {
    check(tensor.defined(), "write_safetensors: tensor \"", name, "\" is undefined");
  }
  uint64_t text = 0;
  for (const auto& [key, value] : metadata) {
    check(is_utf8(key) && is_utf8(value), "write_safetensors: metadata \"", key, "\" is not UTF-8");
    text += key.size() + value.size();
  }
  check(text <= max_header, "write_safetensors: ", path, ": metadata of ", text,  // not copied
        " bytes do not fit the header, which may have ", max_header, "; store less metadata");
  std::vector<std::pair<std::string, Tensor>> sorted(tensors.begin(), tensors.end());
  const auto type_of = [&](const std::string& name) {
    const auto found = stored.find(name);
    return found == stored.end() ? StoredAs::it_is : found->second;
  };
  const auto place = [&](const auto& entry) {
    const auto& [name, tensor] = entry;
    return find_dtype(std::string(stored_name_of(name, tensor.dtype(), type_of(name))));
  };
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](const auto& a, const auto& b) { return place(a) > place(b); });
  std::vector<PlannedTensor> plan;
  for (const auto& [name, tensor] : sorted) {
    plan.push_back({name, tensor.dtype(), tensor.shape(), type_of(name)});
  }
  const std::string beginning = safetensors_beginning(path, plan, metadata);
  AtomicFile file(path);
  file.write(beginning);
  for (const auto& [name, tensor] : sorted) {
    const Tensor host = tensor.to(Device::cpu());
    if (type_of(name) == StoredAs::i64) {
      const std::vector<int32_t> values = host.to_vector<int32_t>();
      const std::vector<int64_t> wide(values.begin(), values.end());
      file.write(wide.data(), wide.size() * sizeof(int64_t));
    } else {
      file.write(host.raw(), static_cast<size_t>(host.bytes()));
    }
  }
  file.publish();
}

}  // namespace cbq
