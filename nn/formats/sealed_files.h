// Files that one run of a program leaves for another: states of interrupted runs, caches, finished
// cells. Each carries a checksum of its contents, so that a file that was damaged on the disk is
// recognized and not used: a flipped bit in a stream or a code would change the result without a
// word. The checksum is zlib's CRC-32 (which finds every error of up to 32 neighbouring bits).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "nn/formats/safetensors.h"

namespace cbq {

/// What a reader throws for a file whose contents do not have the checksum that they were written
/// with, or that has none. The text names the file.
///
/// This and MissingFile (tensor/error.h) say that the file cannot be used. Any other error (no
/// memory, no permission, no file descriptor, a fault of the disk) says nothing about it: whoever
/// catches that one to start anew would replace a good file.
struct DamagedFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// CRC-32 of bytes that come in parts.
class Checksum {
 public:
  Checksum& add(const void* bytes, size_t count);
  Checksum& add(std::string_view text) { return add(text.data(), text.size()); }
  Checksum& add(int64_t number) { return add(&number, sizeof number); }
  /// 8 hexadecimal digits.
  std::string hex() const;

 private:
  unsigned long value_ = 0;  // zlib's uLong
};

/// Called after every few megabytes with the bytes read so far; may throw to stop.
using ReadProgress = std::function<void(int64_t bytes)>;

/// Checksum of all bytes of a file, read part by part.
std::string checksum_of_file(const std::filesystem::path& path, const ReadProgress& progress = {});

// JSON: the member "checksum" is that of the text of all others.

/// `json`, an object, with its checksum.
nlohmann::json sealed(nlohmann::json json);
/// Throws DamagedFile, naming `what`, unless the checksum fits.
void check_sealed(const nlohmann::json& json, const std::string& what);
/// Parses a file and checks it. Throws DamagedFile, also for a text that is no JSON any more;
/// std::runtime_error for a file that cannot be read.
nlohmann::json read_sealed_json(const std::filesystem::path& path,
                                size_t max_bytes = size_t{16} << 20);

// safetensors: the metadata "checksum" is that of the names, dtypes, shapes and bytes of all
// tensors and of the other metadata.

void write_sealed_safetensors(const std::filesystem::path& path,
                              const std::map<std::string, Tensor>& tensors,
                              std::map<std::string, std::string> metadata);
/// Opens the file and reads all of it once. Throws DamagedFile, also for a broken header;
/// MissingFile; std::runtime_error for a file that cannot be opened or mapped.
/// `needs_seal` false: a file without any checksum, as earlier programs wrote it, is opened, too.
SafetensorsFile open_sealed_safetensors(const std::filesystem::path& path, bool needs_seal = true);

// Files of another kind (HDF5, whose library must not meet a damaged file): 16 bytes at the end, a
// mark and the checksum of all bytes before. HDF5 ignores bytes behind its own.

void append_seal(const std::filesystem::path& path);
/// Throws DamagedFile unless the file ends in the mark and the checksum of what stands before.
void check_seal(const std::filesystem::path& path, const ReadProgress& progress = {});

}  // namespace cbq
