// Documents: the rows of a data set, as JSON lines, compressed or not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/text/skipped_rows.h"

namespace cbq {

/// A shard of C4 has 356,317 documents, of which a calibration set reads a few hundred: the lines
/// are kept as they are, and one is parsed when it is asked for.
class Documents {
 public:
  /// Reads .json, .jsonl and .json.gz files of one object with "text" per line, in this order;
  /// blank lines do not count. Throws std::runtime_error for a missing or truncated file, one
  /// without documents, or more than `max_bytes` in all (uncompressed).
  static Documents read(const std::vector<std::filesystem::path>& files,
                        size_t max_bytes = size_t{8} << 30);

  int64_t count() const { return static_cast<int64_t>(lines_.size()); }
  /// "text" of document i; none where its line is no JSON, which `skipped` counts. Throws
  /// std::runtime_error, naming file and line, when the row has no "text".
  std::optional<std::string> try_text(int64_t i, SkippedRows* skipped) const;
  /// The same; a line that is no JSON is a std::runtime_error, too.
  std::string text(int64_t i) const;
  /// Names the files in messages.
  std::string name() const { return files_.size() == 1 ? files_[0] : files_[0] + " and others"; }
  /// 16 hexadecimal digits of all lines.
  std::string hash() const;

 private:
  struct Line {
    size_t begin, size;
    uint32_t file;
    int64_t number;  // within its file, from 1
  };
  std::string where(int64_t i) const;
  std::string_view row(int64_t i) const;
  std::string bytes_;
  std::vector<Line> lines_;
  std::vector<std::string> files_;
};

/// The bytes of a file, uncompressed where it is gzip's. Throws std::runtime_error when it is
/// missing, truncated or larger than `max_bytes`.
std::string read_maybe_gzip(const std::filesystem::path& path, size_t max_bytes);

}  // namespace cbq
