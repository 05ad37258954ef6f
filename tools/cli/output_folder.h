// A folder that appears complete or not at all.
#pragma once

#include <filesystem>
#include <vector>

namespace cbq::cli {

class OutputFolder {
 public:
  /// Creates `path`.partial beside the final place, so that a place that cannot be written is found
  /// before hours of work, not after. A leftover of a killed run is removed.
  /// Throws std::runtime_error, naming path and reason, when it cannot be written, and when `path`
  /// is there and not an empty folder, unless `overwrite`.
  OutputFolder(std::filesystem::path path, bool overwrite);
  /// Removes the partial folder unless publish() has run.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Where to write until publish().
  const std::filesystem::path& partial() const { return partial_; }
  /// Gives the folder its name; an older one is removed.
  void publish();

 private:
  void discard() const;

  std::filesystem::path path_, partial_;
  std::vector<std::filesystem::path> created_;  // parents that were not there
  bool overwrite_;
  bool published_ = false;
};

}  // namespace cbq::cli
