#include "nn/formats/output_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "nn/formats/atomic_file.h"
#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

/// "process 123 on HOST: cbq quantize MODEL -o q"
std::string this_process() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::string command{std::istreambuf_iterator<char>(in), {}};
  while (!command.empty() && command.back() == '\0') command.pop_back();
  for (char& c : command) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  return concat("process ", ::getpid(), " on ", host_name(), ": ", command.substr(0, 400));
}

std::string text_of(int descriptor) {
  std::array<char, 1024> text{};
  const ssize_t count = ::pread(descriptor, text.data(), text.size(), 0);
  return count > 0 ? std::string(text.data(), static_cast<size_t>(count)) : "another process";
}

bool is_unsupported(int error) {
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL;
}

/// Whether the name still belongs to the open file. Whoever gives a lock up removes the file, and
/// what was opened before may be a file without a name.
bool is_named(int descriptor, const fs::path& path) {
  struct stat opened {
  }, named{};
  return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

fs::path lock_of(fs::path resolved) { return resolved += ".lock"; }

}  // namespace

fs::path resolved_output(const fs::path& output) {
  fs::path path = output;
  while (!path.has_filename() && path.has_relative_path()) path = path.parent_path();
  std::error_code error;
  const bool is_dotted = path.filename() == "." || path.filename() == "..";
  if (is_dotted && !fs::exists(path, error)) path = path.lexically_normal();  // NEW/.
  if (!is_dotted && !path.empty() && !fs::is_symlink(path, error)) return path;
  const fs::path target = fs::canonical(path.empty() ? "." : path, error);
  if (!error) return target;
  if (!fs::is_symlink(path, error)) return path;
  fail("the output ", path.string(), " is a link to ", fs::read_symlink(path, error).string(),
       ", which is not there; make that folder, remove the link, or give another --output");
}

bool OutputLock::is_file_there(const fs::path& output) {
  std::error_code ignored;
  return fs::exists(lock_of(resolved_output(output)), ignored);
}

OutputLock::OutputLock(const fs::path& output, Parents parents) {
  const fs::path resolved = resolved_output(output);
  path_ = lock_of(resolved);
  try {
    if (parents == Parents::are_made) make_parents(resolved);
    take(resolved);
  } catch (...) {
    remove_parents();
    throw;
  }
}

void OutputLock::make_parents(const fs::path& output) {
  std::error_code error;
  for (fs::path p = output.parent_path(); !p.empty() && !fs::exists(p, error);
       p = p.parent_path()) {
    created_.push_back(p);
  }
  if (created_.empty()) return;
  fs::create_directories(created_.front(), error);
  if (error) {
    fail("cannot create folder ", created_.front().string(), ": ", error.message(),
         "; give an --output that you may write");
  }
}

void OutputLock::take(const fs::path& output) {
  for (;;) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor_ < 0) {
      fail("cannot create ", path_.string(), ": ", std::strerror(errno),
           "; give an --output (for evaluate: --json) that you may write");
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      const std::string holder = text_of(descriptor_);
      if (!is_unsupported(error)) {
        ::close(std::exchange(descriptor_, -1));
        check(error == EWOULDBLOCK, "cannot lock ", path_.string(), ": ", std::strerror(error));
        fail(output.string(), " is being written by ", holder,
             "; nothing was changed: wait for its end, or give another --output");
      }
      notice_once(concat("the file system of ", path_.string(), " has no locks: do not start a ",
                         "second program with this --output before this one has ended"));
      return;
    }
    if (is_named(descriptor_, path_)) break;
    ::close(std::exchange(descriptor_, -1));
  }
  // Who holds it is told as far as the disk has room: the lock itself needs none.
  const std::string text = this_process();
  if (::ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const ssize_t written = ::write(descriptor_, text.data(), text.size());
  }
}

OutputLock::~OutputLock() {
  if (descriptor_ >= 0) {
    ::unlink(path_.c_str());  // while it is held: afterwards it may be somebody else's
    ::close(descriptor_);
  }
  remove_parents();
}

void OutputLock::remove_parents() const {
  std::error_code ignored;
  for (const fs::path& parent : created_) fs::remove(parent, ignored);  // only while empty
}

}  // namespace cbq
