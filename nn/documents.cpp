#include "nn/documents.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "nn/hash.h"
#include "nn/json.h"
#include "tensor/error.h"

namespace cbq {

std::string read_maybe_gzip(const std::filesystem::path& path, size_t max_bytes) {
  errno = 0;
  gzFile file = gzopen(path.c_str(), "rb");
  if (!file) fail("cannot open ", path.string(), ": ", std::strerror(errno));
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
    result.bytes_ += read_maybe_gzip(path, max_bytes - start);
    result.files_.push_back(path.string());
    int64_t number = 0;
    for (size_t begin = start; begin < result.bytes_.size();) {
      size_t end = std::min(result.bytes_.find('\n', begin), result.bytes_.size());
      // A lone "\r" ends a line as well: within JSON it can only be white space between rows.
      end = begin + std::min(std::string_view(result.bytes_).substr(begin, end - begin).find('\r'),
                             end - begin);
      const std::string_view line(result.bytes_.data() + begin, end - begin);
      ++number;
      if (line.find_first_not_of(" \t") != std::string_view::npos) {
        const auto file = static_cast<uint32_t>(result.files_.size() - 1);
        result.lines_.push_back({begin, line.size(), file, number});
      }
      const bool is_pair = result.bytes_.compare(end, 2, "\r\n") == 0;
      begin = end + (is_pair ? 2 : 1);
    }
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
