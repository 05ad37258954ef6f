#include "nn/text/documents.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/formats/json_lines.h"
#include "tensor/error.h"

namespace cbq {

std::string read_maybe_gzip(const std::filesystem::path& path, size_t max_bytes) {
  errno = 0;
  gzFile file = gzopen(path.c_str(), "rb");
  if (!file) fail_to_open(errno, "cannot open ", path.string(), ": ", std::strerror(errno));
  std::string text, piece(size_t{1} << 20, '\0');
  int got = 0;
  while ((got = gzread(file, piece.data(), static_cast<unsigned>(piece.size()))) > 0) {
    text.append(piece, 0, static_cast<size_t>(got));
    if (text.size() > max_bytes) {
      gzclose(file);
      fail(path.string(), " holds more than the ", max_bytes, " bytes that are read at once");
    }
  }
  int code = Z_OK;
  const std::string message = got < 0 ? gzerror(file, &code) : "";
  const int closed = gzclose(file);  // Z_BUF_ERROR: the file ends within the compressed data
  if (got < 0 || closed != Z_OK) {
    fail("cannot read ", path.string(), ": ",
         closed == Z_BUF_ERROR ? "it is truncated; fetch it again" : message);
  }
  return text;
}

Documents Documents::read(const std::vector<std::filesystem::path>& files, size_t max_bytes) {
  Documents result;
  for (const std::filesystem::path& path : files) {
    const size_t start = result.bytes_.size();
    // The newline that is added below may have made it one more than allowed.
    result.bytes_ += read_maybe_gzip(path, max_bytes - std::min(start, max_bytes));
    result.files_.push_back(path.string());
    const auto file = static_cast<uint32_t>(result.files_.size() - 1);
    const std::string_view all = result.bytes_;
    for_each_json_line(all.substr(start), [&](std::string_view line, int64_t number) {
      const auto begin = static_cast<size_t>(line.data() - all.data());
      result.lines_.push_back({begin, line.size(), file, number});
    });
    if (!result.bytes_.empty() && result.bytes_.back() != '\n') result.bytes_ += '\n';
  }
  if (result.lines_.empty()) fail(files.empty() ? "no files" : files[0].string(), ": no documents");
  return result;
}

std::string Documents::where(int64_t i) const {
  check(i >= 0 && i < count(), "document ", i, " of ", count());
  const Line& line = lines_[static_cast<size_t>(i)];
  return concat(files_[line.file], ", line ", line.number);
}

std::string_view Documents::row(int64_t i) const {
  const Line& line = lines_[static_cast<size_t>(i)];
  return std::string_view(bytes_).substr(line.begin, line.size);
}

std::optional<std::string> Documents::try_text(int64_t i, SkippedRows* skipped) const {
  const std::string place = where(i);
  const nlohmann::json object = skipped->parse(row(i), place);
  if (object.is_discarded()) return std::nullopt;
  return json_string(json_at(object, "text", place), "text", place);
}

std::string Documents::text(int64_t i) const {
  const std::string place = where(i);
  const nlohmann::json object = parse_json(row(i), place);
  return json_string(json_at(object, "text", place), "text", place);
}

std::string Documents::hash() const { return hex(hash_bytes(bytes_)); }

}  // namespace cbq
