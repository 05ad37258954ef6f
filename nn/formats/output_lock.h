// One process at a time writes to an output.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace cbq {

/// The path that --output names, without a trailing separator. If the path is a symbolic link to a
/// file or folder, the result is the link's target, so the link is kept. Throws std::runtime_error
/// for a link to nothing, because the last rename would fail after all the work.
std::filesystem::path resolved_output(const std::filesystem::path& output);

/// Exclusive right to write to an output file or folder, against all processes that ask for it.
///
/// It is an flock() on the file `output`.lock beside the output, which says who holds it. The
/// kernel gives the lock up when the process ends, however it ends; a file left by a killed process
/// is taken over. On a file system without locks a notice is printed, and nothing is locked.
class OutputLock {
 public:
  enum class Parents { exist, are_made };
  /// Folders above the output that are missing are made where asked for. Throws std::runtime_error
  /// when another process holds the lock, naming it, and when the lock's file cannot be written;
  /// then everything is as before.
  explicit OutputLock(const std::filesystem::path& output, Parents parents = Parents::exist);
  /// Removes the lock's file, and the folders that were made as far as they are empty.
  ~OutputLock();
  /// Whether the lock's file is there: a process holds the lock, or was killed while it held it.
  static bool is_file_there(const std::filesystem::path& output);
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  void make_parents(const std::filesystem::path& output);
  void take(const std::filesystem::path& output);
  void remove_parents() const;

  std::filesystem::path path_;
  std::vector<std::filesystem::path> created_;  // the innermost first
  int descriptor_ = -1;
};

}  // namespace cbq
