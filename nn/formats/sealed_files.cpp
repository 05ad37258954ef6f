#include "nn/formats/sealed_files.h"

#include <zlib.h>

#include <algorithm>
#include <fstream>
#include <new>
#include <vector>

#include "nn/formats/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

constexpr const char* checksum_key = "checksum";
constexpr std::string_view seal_mark = "CBQSEAL1";  // 8 bytes, then 8 digits
constexpr size_t seal_bytes = 16;

[[noreturn]] void damaged(const std::string& what, const std::string& how) {
  throw DamagedFile(message_of(what, " is damaged: ", how));
}

[[noreturn]] void differs(const std::string& what, const std::string& found,
                          const std::string& written) {
  if (written.empty()) damaged(what, "the file has no checksum");
  damaged(what, concat("its checksum is ", found, ", the file states ", written));
}

/// Adds the first `count` bytes of the file; all where it is negative.
void add_file(Checksum& checksum, const fs::path& path, int64_t count,
              const ReadProgress& progress) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("cannot open ", path.string());
  std::vector<char> part(size_t{4} << 20);
  int64_t done = 0;
  while (count < 0 || done < count) {
    const auto wanted = static_cast<std::streamsize>(part.size());
    in.read(part.data(), count < 0 ? wanted : std::min<std::streamsize>(wanted, count - done));
    if (in.gcount() == 0) break;
    checksum.add(part.data(), static_cast<size_t>(in.gcount()));
    done += in.gcount();
    if (progress) progress(done);
  }
  if (in.bad() || (count >= 0 && done < count)) fail("cannot read ", path.string());
}

/// Of everything that a reader gets from the file; tensors in the order of their names.
std::string checksum_of(const std::map<std::string, std::string>& metadata,
                        const std::function<void(Checksum&)>& add_tensors) {
  Checksum checksum;
  for (const auto& [key, value] : metadata) {
    if (key == checksum_key) continue;
    checksum.add(static_cast<int64_t>(key.size())).add(key);
    checksum.add(static_cast<int64_t>(value.size())).add(value);
  }
  add_tensors(checksum);
  return checksum.hex();
}

void add_entry(Checksum& checksum, const std::string& name, const std::string& dtype,
               const Shape& shape, const void* bytes, int64_t count) {
  checksum.add(static_cast<int64_t>(name.size())).add(name).add(dtype);
  for (const int64_t extent : shape) checksum.add(extent);
  checksum.add(count).add(bytes, static_cast<size_t>(count));
}

}  // namespace

Checksum& Checksum::add(const void* bytes, size_t count) {
  if (count > 0) value_ = crc32_z(value_, static_cast<const Bytef*>(bytes), count);
  return *this;
}

std::string Checksum::hex() const {
  std::string text(8, '0');
  for (size_t i = 0; i < 8; ++i) text[i] = "0123456789abcdef"[value_ >> (28 - 4 * i) & 15];
  return text;
}

std::string checksum_of_file(const fs::path& path, const ReadProgress& progress) {
  Checksum checksum;
  add_file(checksum, path, -1, progress);
  return checksum.hex();
}

// ---- JSON ---------------------------------------------------------------------------------------

namespace {

std::string checksum_of(const json& object) {
  json rest = object;
  rest.erase(checksum_key);
  return Checksum().add(rest.dump()).hex();
}

}  // namespace

json sealed(json object) {
  // A number may be written in more digits than it is read back with, so the checksum is that of
  // what a reader will have.
  object = json::parse(object.dump());
  object[checksum_key] = checksum_of(object);
  return object;
}

void check_sealed(const json& object, const std::string& what) {
  const json& written = json_find(object, checksum_key, what);
  const std::string found = checksum_of(object);
  if (written != found) {
    differs(what, found, written.is_string() ? written.get<std::string>() : "");
  }
}

json read_sealed_json(const fs::path& path, size_t max_bytes) {
  const std::string text = read_text_file(path, max_bytes);
  json object;
  try {
    object = parse_json(text, path.string());
    if (!object.is_object()) fail("no object of JSON");
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    damaged(path.string(), error.what());
  }
  check_sealed(object, path.string());
  return object;
}

// ---- safetensors --------------------------------------------------------------------------------

void write_sealed_safetensors(const fs::path& path, const std::map<std::string, Tensor>& tensors,
                              std::map<std::string, std::string> metadata) {
  metadata[checksum_key] = checksum_of(metadata, [&](Checksum& checksum) {
    for (const auto& [name, tensor] : tensors) {
      check(tensor.defined(), path.string(), ": tensor \"", name, "\" is undefined");
      const Tensor host = tensor.to(Device::cpu());
      add_entry(checksum, name, safetensors_name_of(host.dtype()), host.shape(), host.raw(),
                host.bytes());
    }
  });
  write_safetensors(path, tensors, metadata);
}

SafetensorsFile open_sealed_safetensors(const fs::path& path, bool needs_seal) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    throw MissingFile(message_of(path.string(), " is not there"));
  }
  const auto open = [&] {
    try {
      return SafetensorsFile::open(path);
    } catch (const MalformedFile& fault) {
      damaged(path.string(), fault.what());
    }
  };
  SafetensorsFile file = open();
  if (!needs_seal && !file.metadata().contains(checksum_key)) return file;
  const std::string found = checksum_of(file.metadata(), [&](Checksum& checksum) {
    for (const std::string& name : file.names()) {
      const TensorInfo& info = file.info(name);
      add_entry(checksum, name, info.dtype, info.shape, file.bytes(name).data(), info.bytes);
    }
  });
  const auto written = file.metadata().find(checksum_key);
  if (written == file.metadata().end() || written->second != found) {
    differs(path.string(), found, written == file.metadata().end() ? "" : written->second);
  }
  return file;
}

// ---- a seal at the end --------------------------------------------------------------------------

void append_seal(const fs::path& path) {
  const std::string seal = std::string(seal_mark) + checksum_of_file(path);
  std::ofstream out(path, std::ios::binary | std::ios::app);
  out << seal << std::flush;
  if (!out) fail("cannot write ", path.string(), "; is the disk full?");
}

void check_seal(const fs::path& path, const ReadProgress& progress) {
  std::error_code error;
  const auto size = static_cast<int64_t>(fs::file_size(path, error));
  if (error) fail("cannot read ", path.string(), ": ", error.message());
  const int64_t contents = size - static_cast<int64_t>(seal_bytes);
  if (contents < 0) damaged(path.string(), "it is cut short");
  std::string seal(seal_bytes, '\0');
  std::ifstream in(path, std::ios::binary);
  in.seekg(contents);
  in.read(seal.data(), static_cast<std::streamsize>(seal_bytes));
  if (!in) fail("cannot read ", path.string());
  if (!seal.starts_with(seal_mark)) {
    damaged(path.string(), "it does not end in a checksum");
  }
  Checksum checksum;
  add_file(checksum, path, contents, progress);
  const std::string written = seal.substr(seal_mark.size());
  if (checksum.hex() != written) differs(path.string(), checksum.hex(), written);
}

}  // namespace cbq
