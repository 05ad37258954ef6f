#include "experiments/tasks/rows.h"

#include <algorithm>

#include "nn/formats/json.h"
#include "nn/formats/json_lines.h"
#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// Splits one CSV text into records.
class CsvReader {
 public:
  CsvReader(const std::string& text, const std::string& file) : text_(text) { table_.file = file; }

  CsvTable read() {
    while (at_ < text_.size()) read_record();
    return std::move(table_);
  }

 private:
  void read_record() {
    std::vector<std::string> record;
    const int64_t first_line = line_;
    bool more = true;
    while (more) {
      std::string field;
      if (at_ < text_.size() && text_[at_] == '"') {
        read_quoted(&field);
      } else {
        const size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
        field = text_.substr(at_, end - at_);
        at_ = end;
      }
      record.push_back(std::move(field));
      more = at_ < text_.size() && text_[at_] == ',';
      if (more) ++at_;
    }
    at_ += text_.compare(at_, 2, "\r\n") == 0 ? 2 : 1;  // the line's end, if there is one
    ++line_;
    if (record.size() == 1 && record[0].empty()) return;
    table_.records.push_back(std::move(record));
    table_.lines.push_back(first_line);
  }

  void read_quoted(std::string* field) {
    const int64_t first_line = line_;
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n' || (c == '\r' && text_.compare(at_, 2, "\r\n") != 0)) ++line_;
      if (c != '"') {
        *field += c;
      } else if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        *field += text_[++at_];
      } else {
        ++at_;
        if (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n' && text_[at_] != '\r') {
          fail(table_.file, ", line ", line_, ": text behind a closing quote");
        }
        return;
      }
    }
    fail(table_.file, ", line ", first_line, ": a quote that is not closed");
  }

  const std::string& text_;
  CsvTable table_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

}  // namespace

bool JsonRow::has(const std::string& key) const { return !json_find(object, key, where).is_null(); }

std::string JsonRow::string(const std::string& key) const {
  return json_string(json_at(object, key, where), key, where);
}

int64_t JsonRow::integer(const std::string& key, int64_t low, int64_t high) const {
  const nlohmann::json& value = json_at(object, key, where);
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    const bool digits = !text.empty() && text.size() < 10 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    if (digits) return json_int(nlohmann::json(std::stoll(text)), key, where, low, high);
  }
  return json_int(value, key, where, low, high);
}

std::vector<std::string> JsonRow::strings(const std::string& key) const {
  const nlohmann::json& list = json_at(object, key, where);
  if (!list.is_array() || list.empty()) fail(where, ": \"", key, "\" must be a list of strings");
  std::vector<std::string> result;
  for (const nlohmann::json& entry : list) result.push_back(json_string(entry, key, where));
  return result;
}

std::vector<JsonRow> read_json_rows(const std::filesystem::path& file, int64_t* all) {
  SkippedRows skipped(file.string());
  int64_t count = 0;
  std::vector<JsonRow> rows = read_json_rows(file, &skipped, &count);
  if (count > 0 && rows.empty()) fail(skipped.first_reason());
  skipped.report(count);
  if (rows.empty()) fail(file.string(), " holds no rows");
  if (all) *all = count;
  return rows;
}

std::vector<JsonRow> read_json_rows(const std::filesystem::path& file, SkippedRows* skipped,
                                    int64_t* all) {
  const std::string text = read_text_file(file);
  std::vector<JsonRow> rows;
  for_each_json_line(text, [&](std::string_view line, int64_t number) {
    const std::string where = concat(file.string(), ", line ", number);
    nlohmann::json object = skipped->parse(line, where);
    const int64_t index = (*all)++;
    if (object.is_discarded()) return;
    if (!object.is_object()) fail(where, ": must be an object");
    rows.push_back({std::move(object), where, index});
  });
  return rows;
}

CsvTable read_csv(const std::filesystem::path& file) {
  const std::string text = read_text_file(file);
  if (!is_utf8(text)) fail(file.string(), " is not UTF-8 text");
  CsvTable table = CsvReader(text, file.string()).read();
  if (table.records.empty()) fail(file.string(), " holds no rows");
  return table;
}

std::string CsvTable::where(size_t i) const { return concat(file, ", line ", lines[i]); }

const std::string& CsvTable::at(size_t i, size_t column) const {
  if (column >= records[i].size()) {
    fail(where(i), ": field ", column + 1, " is missing; the row has ", records[i].size());
  }
  return records[i][column];
}

size_t csv_column(const CsvTable& table, const std::string& name) {
  const auto& header = table.records[0];
  const auto at = std::find(header.begin(), header.end(), name);
  if (at == header.end()) fail(table.where(0), ": there is no column called ", name);
  return static_cast<size_t>(at - header.begin());
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace cbq
