// Rows of task files: JSON lines and CSV, with errors that name file, line and field.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

/// An object of a JSON-lines file.
struct JsonRow {
  nlohmann::json object;
  std::string where;  // "FILE, line N"
  bool has(const std::string& key) const;
  std::string string(const std::string& key) const;
  /// Within [low, high]; also accepted as a string of digits, as some data sets write labels.
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  /// At least one string.
  std::vector<std::string> strings(const std::string& key) const;
};

/// All rows of a JSON-lines file (or of one that is a single object); blank lines do not count.
/// Throws std::runtime_error when there are none.
std::vector<JsonRow> read_json_rows(const std::filesystem::path& file);

/// Records of a CSV file (RFC 4180: quoted fields may hold commas, quotes and line ends).
struct CsvTable {
  std::vector<std::vector<std::string>> records;
  std::vector<int64_t> lines;  // where each record begins
  std::string file;
  /// Field `column` of record `i`; throws std::runtime_error with the line when it has fewer.
  const std::string& at(size_t i, size_t column) const;
  std::string where(size_t i) const;
};
CsvTable read_csv(const std::filesystem::path& file);
/// The column called `name` in the table's first record. Throws std::runtime_error.
size_t csv_column(const CsvTable& table, const std::string& name);

/// Characters (code points) of UTF-8 text, as Python's len() counts them.
int64_t count_characters(std::string_view text);
std::string replace_all(std::string text, std::string_view from, std::string_view to);
/// Without white space (ASCII) at both ends; at the right end only.
std::string strip(std::string_view text);
std::string strip_right(std::string_view text);

}  // namespace cbq
