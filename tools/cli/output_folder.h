// A folder that appears complete or not at all.
#pragma once

#include <filesystem>
#include <string>

#include "nn/formats/output_lock.h"

namespace cbq::cli {

class OutputFolder {
 public:
  /// Takes the lock of `path` before anything else (nn/formats/output_lock.h), then puts right what
  /// a killed run has left: its `path`.partial is removed, and a folder that it moved away gets its
  /// name back. Creates `path`.partial beside the final place, so that a place that cannot be
  /// written is found before hours of work, not after. Throws std::runtime_error, naming path and
  /// reason, when it cannot be written, when another process writes to it, when `path` is there and
  /// not an empty folder, unless `overwrite`, and when a name beside it that is needed (`path`
  /// with .partial or .old) is somebody else's. A file in a folder that is to be removed tells it
  /// from somebody else's.
  OutputFolder(const std::filesystem::path& path, bool overwrite);
  /// Removes the partial folder unless publish() has run.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Where to write until publish().
  const std::filesystem::path& partial() const { return partial_; }
  /// Whether a file in partial() is this class's own, which publish() removes.
  static bool is_mark(const std::string& file_name);
  /// Whether `folder` is one that a command is writing, or was writing when it was killed.
  static bool is_partial(const std::filesystem::path& folder);
  /// Gives the folder its name; an older one is removed. At every moment the name belongs to one of
  /// the two, where the file system can exchange names. Else a kill between two renames leaves
  /// `path`.old, which the next OutputFolder of this path moves back.
  void publish();

 private:
  void recover() const;
  void check_place() const;
  bool replaces() const;
  bool can_exchange() const;
  void make_partial() const;
  void replace();
  void replace_in_two_steps();
  void discard() const;

  std::filesystem::path path_, partial_, old_;
  bool overwrite_;
  OutputLock lock_;
  bool published_ = false;
};

}  // namespace cbq::cli
