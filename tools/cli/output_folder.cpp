#include "tools/cli/output_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>

#include "nn/atomic_file.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq::cli {
namespace {

/// In a folder that is about to be replaced: tells it from somebody's own folder `path`.old.
constexpr const char* replaced_mark = ".cbq-replaced";

fs::path with_suffix(fs::path path, const char* suffix) { return path += suffix; }

[[noreturn]] void fail_at(const char* act, const fs::path& path, const std::error_code& error) {
  fail("cannot ", act, " ", path.string(), ": ", error.message(),
       "; give an --output that you may write");
}

void rename_or_fail(const fs::path& from, const fs::path& to, const char* act,
                    const fs::path& named) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fail_at(act, named, error);
}

bool is_marked(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / replaced_mark, ignored);
}

/// Makes renames in the folder above survive a crash of the machine, as far as it supports that.
void sync_parent(const fs::path& path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const int descriptor = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& path, bool overwrite)
    : path_(resolved_output(path)),
      partial_(with_suffix(path_, ".partial")),
      old_(with_suffix(path_, ".old")),
      overwrite_(overwrite),
      lock_(path_, OutputLock::Parents::are_made) {
  recover();
  check_place();
  make_partial();
}

/// After a kill between the steps of replace_in_two_steps().
void OutputFolder::recover() const {
  std::error_code ignored;
  if (is_marked(old_)) {
    if (fs::exists(path_, ignored)) {
      fs::remove_all(old_, ignored);
    } else {
      rename_or_fail(old_, path_, "give the folder of before its name back:", path_);
    }
  }
  fs::remove(path_ / replaced_mark, ignored);
}

void OutputFolder::check_place() const {
  std::error_code error;
  if (!fs::exists(path_, error)) return;
  if (!fs::is_directory(path_)) fail(path_.string(), " is a file; give a folder as --output");
  if (fs::is_empty(path_)) return;
  if (!overwrite_) {
    fail(path_.string(), " is there and not empty; give another --output, or --overwrite");
  }
  // --overwrite removes a whole folder: not somebody's home by a slip of the hand.
  if (!fs::exists(path_ / "config.json")) {
    fail(path_.string(), " is no model folder (no config.json), so it is not overwritten; give ",
         "another --output");
  }
}

void OutputFolder::make_partial() const {
  std::error_code error;
  fs::remove_all(partial_, error);
  if (error) fail_at("remove the leftover", partial_, error);
  fs::create_directory(partial_, error);
  if (error) fail_at("create folder", partial_, error);
  // A folder can be made where no file can (a full disk), so try both.
  try {
    write_text_atomically(partial_ / "probe", "x");
    fs::remove(partial_ / "probe");
  } catch (...) {
    discard();
    throw;
  }
}

void OutputFolder::discard() const {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

OutputFolder::~OutputFolder() {
  if (!published_) discard();
}

void OutputFolder::publish() {
  if (overwrite_ && fs::exists(path_) && !fs::is_empty(path_)) {
    replace();
  } else {
    rename_or_fail(partial_, path_, "give the finished folder the name", path_);
  }
  published_ = true;
  sync_parent(path_);
  discard();  // after an exchange, the folder of before
  std::error_code ignored;
  if (is_marked(old_)) fs::remove_all(old_, ignored);
}

void OutputFolder::replace() {
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
    replace_in_two_steps();  // the kernel or the file system cannot; what else is wrong is told
                             // there
  }
}

void OutputFolder::replace_in_two_steps() {
  std::error_code error;
  if (fs::exists(old_, error)) {
    fail(old_.string(), " is in the way: this file system replaces a folder in two steps, and ",
         "needs that name; move it away and give the same command with --resume");
  }
  write_text_atomically(path_ / replaced_mark, "");
  rename_or_fail(path_, old_, "move the old folder away", path_);
  fs::rename(partial_, path_, error);
  if (!error) return;
  std::error_code ignored;
  fs::rename(old_, path_, ignored);
  fs::remove(path_ / replaced_mark, ignored);
  fail_at("give the finished folder the name", path_, error);
}

}  // namespace cbq::cli
