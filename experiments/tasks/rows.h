// Rows of task files: JSON lines and CSV, with errors that name file, line and field.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "nn/text/skipped_rows.h"

namespace cbq {

/// An object of a JSON-lines file.
struct JsonRow {
  nlohmann::json object;
  std::string where;  // "FILE, line N"
  int64_t index = 0;  // within the file, rows that were left out included
  bool has(const std::string& key) const;
  std::string string(const std::string& key) const;
  /// Within [low, high]; also accepted as a string of digits, as some data sets write labels.
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  /// At least one string.
  std::vector<std::string> strings(const std::string& key) const;
};

/// All rows of a JSON-lines file (or of one that is a single object); blank lines do not count. A
/// row that is no JSON is left out with a warning on standard error. `all`: number of rows with
/// those. Throws std::runtime_error when none can be read.
std::vector<JsonRow> read_json_rows(const std::filesystem::path& file, int64_t* all = nullptr);
/// The same. `skipped` counts the rows that are left out. The result may be empty.
std::vector<JsonRow> read_json_rows(const std::filesystem::path& file, SkippedRows* skipped,
                                    int64_t* all);

/// Records of a CSV file (RFC 4180: quoted fields may hold commas, quotes and line ends, which stay
/// as they are). Records end in "\n", "\r\n" or "\r", as for Python's csv module.
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

}  // namespace cbq
