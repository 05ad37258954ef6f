#include "nn/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "tensor/error.h"

namespace cbq {
namespace {

const char* remedy_of(int error) {
  if (error == ENOSPC || error == EDQUOT) return "; free some space or write elsewhere";
  if (error == EROFS || error == EACCES || error == EPERM) {
    return "; write to a folder that you may change";
  }
  if (error == ENOENT || error == ENOTDIR) return "; is the path right?";
  return "";
}

// Throws with errno's reason.
[[noreturn]] void fail_to(const char* act, const std::filesystem::path& path) {
  const int error = errno;
  fail("cannot ", act, " ", path.string(), ": ", std::strerror(error), remedy_of(error));
}

// Makes a rename in this folder survive a crash. Best effort: some file systems refuse it, and the
// file itself is complete either way.
void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // A rename would replace a device node (/dev/null), not write to it.
  std::error_code error;
  const auto status = std::filesystem::status(path_, error);
  check(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
        "cannot write ", path_, ": it is not a regular file");
  // Unique per process and call, so that concurrent writers of one name cannot mix their bytes.
  static std::atomic<unsigned> serial{0};
  temporary_ = path_;
  temporary_ += concat(".", ::getpid(), ".", serial++, ".tmp");
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_to("create", path_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, size_t count) {
  const char* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(descriptor_, at, std::min<size_t>(count, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_to("write", path_);
    }
    at += written;
    count -= static_cast<size_t>(written);
  }
}

void AtomicFile::publish() {
  check(descriptor_ >= 0, "AtomicFile::publish: ", path_, " is published already");
  // EINVAL: what is behind the descriptor knows no sync.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_to("write", path_);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_to("write", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_to("give a finished file the name", path_);
  temporary_.clear();
  sync_folder_of(path_);
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) fail(path.string(), " is a folder, not a file");
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_to("open", path);
  // Read in pieces: a pipe has no size, and a size may change while we read.
  std::string text;
  std::string piece(size_t{1} << 20, '\0');
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())) || in.gcount() > 0) {
    text.append(piece, 0, static_cast<size_t>(in.gcount()));
    if (text.size() > max_bytes) {
      fail(path.string(), " is larger than the ", max_bytes, " bytes that are read at once");
    }
  }
  if (in.bad()) fail_to("read", path);
  return text;
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.publish();
}

}  // namespace cbq
