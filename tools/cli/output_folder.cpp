#include "tools/cli/output_folder.h"

#include <fcntl.h>

#include <cstdio>
#include <string>
#include <system_error>

#include "nn/formats/atomic_file.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq::cli {
namespace {

/// In a folder that is about to be replaced: tells it from somebody's own folder `path`.old or
/// `path`.partial.
constexpr const char* replaced_mark = ".cbq-replaced";
/// In `path`.partial, for the same.
constexpr const char* partial_mark = ".cbq-partial";

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

bool is_marked(const fs::path& folder, const char* mark = replaced_mark) {
  std::error_code ignored;
  return fs::exists(folder / mark, ignored);
}

void remove_marks(const fs::path& folder) {
  std::error_code ignored;
  for (const char* mark : {replaced_mark, partial_mark}) fs::remove(folder / mark, ignored);
}

/// The marks last: a kill on the way must not leave a folder that nobody dares to remove.
void remove_folder(const fs::path& folder, std::error_code& error) {
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!OutputFolder::is_mark(at->path().filename().string())) fs::remove_all(at->path(), error);
  }
  if (!error || error == std::errc::no_such_file_or_directory) fs::remove_all(folder, error);
}

bool exchange(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

bool OutputFolder::is_mark(const std::string& file_name) {
  return file_name == replaced_mark || file_name == partial_mark;
}

bool OutputFolder::is_partial(const fs::path& folder) { return is_marked(folder, partial_mark); }

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
      remove_folder(old_, ignored);
    } else {
      rename_or_fail(old_, path_, "give the folder of before its name back:", path_);
    }
  }
  remove_marks(path_);
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
  sweep_temporaries(partial_);
  const fs::file_type found = fs::symlink_status(partial_, error).type();
  const bool is_leftover =
      found == fs::file_type::directory &&
      (is_marked(partial_) || is_marked(partial_, partial_mark) || fs::is_empty(partial_, error));
  if (found != fs::file_type::not_found && !is_leftover) {
    fail(partial_.string(), " is in the way: the output is made there, and no run has left it; ",
         "move it away, or give another --output");
  }
  remove_folder(partial_, error);
  if (error) fail_at("remove the leftover", partial_, error);
  fs::create_directory(partial_, error);
  if (error) fail_at("create folder", partial_, error);
  // A folder can be made where no file can (a full disk), so the mark tries that, too.
  try {
    write_text_atomically(partial_ / partial_mark, "x");
    if (replaces() && fs::exists(old_) && !can_exchange()) {
      fail(old_.string(), " is in the way: this file system replaces a folder in two steps, and ",
           "needs that name; move it away, or give another --output");
    }
  } catch (...) {
    discard();
    throw;
  }
}

bool OutputFolder::replaces() const {
  return overwrite_ && fs::exists(path_) && !fs::is_empty(path_);
}

/// Whether the file system exchanges names, tried with two files.
bool OutputFolder::can_exchange() const {
  const fs::path other = partial_ / "probe";
  write_text_atomically(other, "");
  const bool can = exchange(other, partial_ / partial_mark);
  fs::remove(other);
  return can;
}

void OutputFolder::discard() const {
  std::error_code ignored;
  remove_folder(partial_, ignored);
}

OutputFolder::~OutputFolder() {
  if (!published_) discard();
}

void OutputFolder::publish() {
  if (replaces()) {
    replace();
  } else {
    rename_or_fail(partial_, path_, "give the finished folder the name", path_);
  }
  published_ = true;
  remove_marks(path_);
  sync_folder_of(path_);
  discard();  // after an exchange, the folder of before
  std::error_code ignored;
  if (is_marked(old_)) remove_folder(old_, ignored);
}

void OutputFolder::replace() {
  // After a kill the folder of before may stand under another name: marked, it is known as ours.
  try {
    write_text_atomically(path_ / replaced_mark, "");
  } catch (const std::runtime_error&) {
    // A folder that cannot be written to can still be exchanged.
  }
  if (!exchange(partial_, path_)) {
    replace_in_two_steps();  // the kernel or the file system cannot; what else is wrong is told
                             // there
  }
}

void OutputFolder::replace_in_two_steps() {
  std::error_code error;
  if (fs::exists(old_, error)) {
    remove_marks(path_);
    fail(old_.string(), " is in the way: this file system replaces a folder in two steps, and ",
         "needs that name; move it away, or give another --output");
  }
  if (!is_marked(path_)) write_text_atomically(path_ / replaced_mark, "");
  rename_or_fail(path_, old_, "move the old folder away", path_);
  fs::rename(partial_, path_, error);
  if (!error) return;
  std::error_code ignored;
  fs::rename(old_, path_, ignored);
  remove_marks(path_);
  fail_at("give the finished folder the name", path_, error);
}

}  // namespace cbq::cli
