// Rows of a data set that cannot be read: one bad row among many thousands does not end a run.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace cbq {

/// Counts the rows that were left out, names the first ones on standard error, and says at the end
/// how many there were.
class SkippedRows {
 public:
  /// `file`: what the rows come from.
  explicit SkippedRows(std::string file) : file_(std::move(file)) {}

  /// parse_json of a row; `where` names file and line. A row that is no JSON (cut short, not UTF-8,
  /// half of a surrogate pair, NaN) is counted, and the result is "discarded" (is_discarded()).
  nlohmann::json parse(std::string_view row, const std::string& where);

  int64_t count() const { return count_; }
  /// Why the first row was left out, with its place.
  const std::string& first_reason() const { return first_reason_; }
  /// Writes the number of rows that were left out, of `all`, to standard error; nothing when 0.
  void report(int64_t all) const;

 private:
  std::string file_, first_reason_;
  int64_t count_ = 0;
};

}  // namespace cbq
