// Files that are either complete or not there.
//
// Every file this project writes goes through AtomicFile: bytes go to a temporary sibling, and only
// a finished, synced file takes the final name. An interrupted program, a full disk or a read-only
// folder leaves the old file as it was, and nothing half-written beside it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace cbq {

class AtomicFile {
 public:
  /// Creates an empty temporary file beside `path`.
  /// Throws std::runtime_error, naming the path and the system's reason, when the folder is missing
  /// or cannot be written.
  explicit AtomicFile(std::filesystem::path path);
  /// Removes the temporary file unless publish() has run.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Where the bytes are until publish(); for libraries that insist on opening a file themselves.
  const std::filesystem::path& temporary_path() const { return temporary_; }
  /// Appends bytes. Throws std::runtime_error with the path and the reason (disk full, quota, ...).
  void write(const void* bytes, size_t count);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Syncs the bytes to the disk and gives the file its name, replacing an older one.
  void publish();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// The whole file. Throws std::runtime_error when it cannot be read or is larger than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

/// Writes `text` to `path` through AtomicFile.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace cbq
