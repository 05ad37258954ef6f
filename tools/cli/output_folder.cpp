#include "tools/cli/output_folder.h"

#include <system_error>
#include <utility>

#include "nn/atomic_file.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq::cli {
namespace {

/// Without the trailing separator, which would put a sibling inside.
fs::path without_slash(fs::path path) {
  path = path.lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

fs::path with_suffix(fs::path path, const char* suffix) { return path += suffix; }

[[noreturn]] void fail_at(const char* act, const fs::path& path, const std::error_code& error) {
  fail("cannot ", act, " ", path.string(), ": ", error.message(),
       "; give an --output that you may write");
}

}  // namespace

OutputFolder::OutputFolder(fs::path path, bool overwrite)
    : path_(without_slash(std::move(path))),
      partial_(with_suffix(path_, ".partial")),
      overwrite_(overwrite) {
  std::error_code error;
  if (fs::exists(path_, error)) {
    if (!fs::is_directory(path_)) fail(path_.string(), " is a file; give a folder as --output");
    if (!overwrite_ && !fs::is_empty(path_)) {
      fail(path_.string(), " is there and not empty; give another --output, or --overwrite");
    }
    // --overwrite removes a whole folder: not somebody's home by a slip of the hand.
    if (!fs::is_empty(path_) && !fs::exists(path_ / "config.json")) {
      fail(path_.string(), " is no model folder (no config.json), so it is not overwritten; give ",
           "another --output");
    }
  }
  for (fs::path p = path_.parent_path(); !p.empty() && !fs::exists(p, error); p = p.parent_path()) {
    created_.push_back(p);
  }
  if (!created_.empty()) {
    fs::create_directories(created_.front(), error);
    if (error) fail_at("create folder", created_.front(), error);
  }
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
  for (const fs::path& parent : created_) fs::remove(parent, ignored);  // only while empty
}

OutputFolder::~OutputFolder() {
  if (!published_) discard();
}

void OutputFolder::publish() {
  const fs::path old = with_suffix(path_, ".old");
  std::error_code error;
  const bool replaces = overwrite_ && fs::exists(path_) && !fs::is_empty(path_);
  if (replaces) {
    fs::remove_all(old, error);
    fs::rename(path_, old, error);
    if (error) fail_at("move the old folder away", path_, error);
  }
  fs::rename(partial_, path_, error);
  if (error) {
    std::error_code ignored;
    if (replaces) fs::rename(old, path_, ignored);
    fail_at("give the finished folder the name", path_, error);
  }
  published_ = true;
  if (replaces) fs::remove_all(old, error);
}

}  // namespace cbq::cli
