#include "nn/formats/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "nn/formats/hash.h"
#include "nn/formats/output_lock.h"
#include "tensor/error.h"

namespace cbq {
namespace {

const char* remedy_of(int error) {
  if (error == ENOSPC || error == EDQUOT) return "; free some space or write elsewhere";
  if (error == EROFS || error == EACCES || error == EPERM) {
    return "; write to a folder that you may change";
  }
  if (error == ENOENT || error == ENOTDIR) return "; is the path right?";
  if (error == EFBIG) return "; raise the limit of file sizes (ulimit -f)";
  return "";
}

// Throws with errno's reason.
[[noreturn]] void fail_to(const char* act, const std::filesystem::path& path) {
  const int error = errno;
  fail_to_open(error, "cannot ", act, " ", path.string(), ": ", std::strerror(error),
               remedy_of(error));
}

// NAME.cbq-HOST-PROCESS-SERIAL.tmp; HOST: 8 digits of a hash.
constexpr std::string_view mark = ".cbq-", ending = ".tmp";

const std::string& host_digits() {
  static const std::string digits = hex(hash_bytes(host_name())).substr(0, 8);
  return digits;
}

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == std::string_view::npos;
}

// The host's digits in the name of a temporary file; empty for every other name.
std::string host_in_name(std::string_view name) {
  const size_t at = name.rfind(mark);
  if (at == std::string_view::npos || at == 0 || !name.ends_with(ending)) return "";
  std::string_view rest = name.substr(at + mark.size());
  rest.remove_suffix(ending.size());
  const size_t first = rest.find('-'), second = rest.rfind('-');
  if (first != 8 || second == first) return "";
  const std::string_view host = rest.substr(0, first);
  const bool is_ours = consists_of(host, "0123456789abcdef") &&
                       consists_of(rest.substr(first + 1, second - first - 1), "0123456789") &&
                       consists_of(rest.substr(second + 1), "0123456789");
  return is_ours ? std::string(host) : "";
}

// Removes one temporary file unless a process writes to it. The lock, not the process's number,
// tells: numbers are used again, and mean nothing in another container.
void sweep(const std::filesystem::path& path, const std::string& host) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return;
  constexpr time_t day = 24 * 60 * 60;
  struct stat status {};
  const bool is_old = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
                      (host == host_digits() || status.st_mtime + day < std::time(nullptr));
  if (is_old && ::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  ::close(descriptor);
}

void sweep_once(const std::filesystem::path& folder) {
  static std::mutex mutex;
  static std::set<std::filesystem::path> swept;
  std::error_code error;
  const std::filesystem::path name = std::filesystem::absolute(folder, error).lexically_normal();
  {
    const std::lock_guard lock(mutex);
    if (!swept.insert(name).second) return;
  }
  sweep_temporaries(folder);
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

}  // namespace

void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "unknown host";
  return name.data();
}

void sweep_temporaries(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::pair<std::filesystem::path, std::string>> found;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const std::string host = host_in_name(at->path().filename().string());
    if (!host.empty()) found.emplace_back(at->path(), host);
  }
  for (const auto& [path, host] : found) sweep(path, host);
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(resolved_output(path)) {
  // A rename would replace a device node (/dev/null), not write to it.
  std::error_code error;
  const auto status = std::filesystem::status(path_, error);
  check(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
        "cannot write ", path_, ": it is not a regular file");
  sweep_once(folder_of(path_));
  while (!create_temporary()) {
  }
}

// False when a sweeper came between the creation and the lock.
bool AtomicFile::create_temporary() {
  // Unique per process and call, so that concurrent writers of one name cannot mix their bytes.
  static std::atomic<unsigned> serial{0};
  temporary_ = path_;
  temporary_ += concat(mark, host_digits(), "-", ::getpid(), "-", serial++, ending);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    const int failed = std::exchange(errno, 0);
    temporary_.clear();
    // A process of this number, of another container or before, was killed and could not be swept.
    if (failed == EEXIST) return false;
    errno = failed;
    fail_to("create", path_);
  }
  struct stat status {};
  ::flock(descriptor_, LOCK_EX);  // where the file system has no locks, nobody sweeps either
  const bool is_there = ::fstat(descriptor_, &status) == 0 && status.st_nlink > 0;
  if (is_there) {
    lock_ = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  } else {
    ::close(std::exchange(descriptor_, -1));
  }
  return is_there;
}

void AtomicFile::close_lock() {
  if (lock_ >= 0) ::close(std::exchange(lock_, -1));
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  if (descriptor_ >= 0) ::close(descriptor_);
  close_lock();
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
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail_to("give a finished file the name", path_);
  }
  temporary_.clear();
  close_lock();
  sync_folder_of(path_);
}

namespace {

// A file to read, closed at the end.
class Source {
 public:
  // Opening does not wait: a named pipe without a writer would.
  explicit Source(const std::filesystem::path& path) : path_(path) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor_ < 0) fail_to("open", path);
    struct stat status {};
    const bool is_known = ::fstat(descriptor_, &status) == 0;
    const bool is_folder = is_known && S_ISDIR(status.st_mode);
    const bool is_regular = is_known && S_ISREG(status.st_mode);
    if (is_regular) return;
    if (!is_folder && was_opened_before(path)) {
      ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
      return;
    }
    ::close(std::exchange(descriptor_, -1));
    if (is_folder) fail(path.string(), " is a folder, not a file");
    fail(path.string(), " is not a regular file; give one, or a pipe as /dev/stdin");
  }
  ~Source() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // The next bytes; 0 at the end.
  size_t read(std::string& piece) {
    for (;;) {
      const ssize_t count = ::read(descriptor_, piece.data(), piece.size());
      if (count >= 0) return static_cast<size_t>(count);
      if (errno != EINTR) fail_to("read", path_);
    }
  }

 private:
  // Whoever started the program has opened it: nobody waits for a writer.
  static bool was_opened_before(const std::filesystem::path& path) {
    const std::string name = path.lexically_normal().string();
    return name == "/dev/stdin" || name.starts_with("/dev/fd/") ||
           name.starts_with("/proc/self/fd/");
  }

  const std::filesystem::path& path_;
  int descriptor_ = -1;
};

constexpr size_t bytes_at_once = size_t{1} << 20;

}  // namespace

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  Source source(path);
  // Read in pieces: a pipe has no size, and a size may change while we read.
  std::string text;
  std::string piece(bytes_at_once, '\0');
  while (const size_t count = source.read(piece)) {
    text.append(piece, 0, count);
    if (text.size() > max_bytes) {
      fail(path.string(), " is larger than the ", max_bytes, " bytes that are read at once");
    }
  }
  return text;
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.publish();
}

void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to) {
  Source source(from);
  AtomicFile file(to);
  std::string piece(bytes_at_once, '\0');
  while (const size_t count = source.read(piece)) file.write(piece.data(), count);
  file.publish();
}

}  // namespace cbq
