// Files that are either complete or not there.
//
// Every file this project writes goes through AtomicFile: bytes go to a temporary sibling, and only
// a finished, synced file takes the final name. An interrupted program, a full disk or a read-only
// folder leaves the old file as it was, and nothing half-written beside it. A program that is
// killed leaves the temporary file, which the next program that writes to the folder removes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace cbq {

class AtomicFile {
 public:
  /// Creates an empty temporary file beside `path`, or beside what `path` is a link to. It is
  /// locked (flock) until it is published or given up, which tells sweep_temporaries() that it is
  /// in use. Sweeps the folder when the process writes to it for the first time. Throws
  /// std::runtime_error, naming the path and the system's reason, when the folder is missing or
  /// cannot be written, or when `path` is a link to nothing.
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
  bool create_temporary();
  void close_lock();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;  // for writing
  int lock_ = -1;        // the same open file; holds the lock until the end
};

/// Removes the temporary files of AtomicFile in `folder` (not below it) whose writer is gone: those
/// that nobody holds locked. A file made on another host is left alone until it has not been
/// written to for a day, since some network file systems keep locks within one host. Other files
/// are not touched, and errors are ignored: a folder that cannot be swept can still be read.
void sweep_temporaries(const std::filesystem::path& folder);

/// Makes renames in the folder of `path` survive a crash of the machine. Best effort: some file
/// systems refuse it.
void sync_folder_of(const std::filesystem::path& path);

/// The name of this machine, "unknown host" where the system does not tell.
std::string host_name();

/// The whole file. Throws std::runtime_error when it cannot be read, is larger than `max_bytes`, or
/// is not a regular file: opening a named pipe would wait for a writer that may never come.
/// Descriptors that the caller of the program has opened (/dev/stdin, and /dev/fd/N, which a shell
/// makes of <(command)) may be pipes.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

/// Writes `text` to `path` through AtomicFile.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

/// Copies a regular file through AtomicFile, in pieces.
void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace cbq
