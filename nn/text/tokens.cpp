#include "nn/text/tokens.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "nn/formats/hash.h"
#include "nn/formats/hdf5.h"
#include "nn/formats/json.h"
#include "nn/formats/json_lines.h"
#include "nn/formats/unicode.h"
#include "nn/text/documents.h"
#include "nn/text/skipped_rows.h"

namespace cbq {
namespace {

constexpr size_t max_text_bytes = size_t{1} << 30;  // uncompressed

std::string_view bytes_of(const std::vector<int32_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)};
}

void check_length(const std::vector<int32_t>& ids, int64_t length) {
  check(length >= 1, "segments must have at least one token, asked for ", length);
  check(static_cast<int64_t>(ids.size()) >= length, "the text has ", ids.size(),
        " tokens, less than one segment of ", length, "; use a longer text or shorter segments");
}

// Calls `f` with each line, its newline included.
template <class F>
void for_each_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const size_t size = newline == std::string_view::npos ? text.size() : newline + 1;
    f(text.substr(0, size));
    text.remove_prefix(size);
  }
}

std::string text_of_json_lines(std::string_view lines, const std::string& path) {
  std::string text;
  int64_t rows = 0;
  SkippedRows skipped(path);
  for_each_json_line(lines, [&](std::string_view line, int64_t number) {
    ++rows;
    const std::string where = concat(path, ", line ", number);
    const nlohmann::json row = skipped.parse(line, where);
    if (row.is_discarded()) return;
    if (!text.empty()) text += "\n\n";
    text += json_string(json_at(row, "text", where), "text", where);
  });
  if (rows > 0 && skipped.count() == rows) fail(skipped.first_reason());
  skipped.report(rows);
  return text;
}

}  // namespace

int64_t TokenSet::length() const {
  check(!segments.empty(), "the token set is empty");
  for (size_t i = 1; i < segments.size(); ++i) {
    check(segments[i].size() == segments[0].size(), "segments must have one length: segment 0 has ",
          segments[0].size(), " tokens, segment ", i, " has ", segments[i].size());
  }
  return static_cast<int64_t>(segments[0].size());
}

int64_t TokenSet::token_count() const {
  size_t sum = 0;
  for (const std::vector<int32_t>& segment : segments) sum += segment.size();
  return static_cast<int64_t>(sum);
}

Tensor TokenSet::batch(int64_t begin, int64_t end, Device device) const {
  const TokenSet part = slice(begin, end);
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(part.token_count()));
  if (part.count() > 0) part.length();  // throws when they differ
  for (const auto& segment : part.segments) ids.insert(ids.end(), segment.begin(), segment.end());
  const Shape shape = {static_cast<int64_t>(ids.size())};
  return Tensor::from(ids, shape, Dtype::i32, device);
}

TokenSet TokenSet::slice(int64_t begin, int64_t end) const {
  check(0 <= begin && begin <= end && end <= count(), "segments [", begin, ", ", end, ") of ",
        count());
  std::vector<int64_t> numbers(static_cast<size_t>(end - begin));
  std::iota(numbers.begin(), numbers.end(), begin);
  return chosen(numbers);
}

TokenSet TokenSet::chosen(const std::vector<int64_t>& numbers) const {
  TokenSet part{{}, protocol, tokenizer_hash, source_hash};
  for (const int64_t number : numbers) {
    check(0 <= number && number < count(), "segment ", number, " of ", count());
    part.segments.push_back(segments[static_cast<size_t>(number)]);
    if (!documents.empty()) part.documents.push_back(documents.at(static_cast<size_t>(number)));
  }
  return part;
}

std::string TokenSet::hash() const {
  uint64_t hash = hash_bytes("tokens");
  for (const std::vector<int32_t>& segment : segments) hash = hash_bytes(bytes_of(segment), hash);
  return hex(hash);
}

void TokenSet::check_vocabulary(int64_t vocab_size) const {
  for (size_t s = 0; s < segments.size(); ++s) {
    for (size_t i = 0; i < segments[s].size(); ++i) {
      const int32_t id = segments[s][i];
      check(id >= 0 && id < vocab_size, "token id ", id, " (segment ", s, ", position ", i,
            ") is outside the model's vocabulary of ", vocab_size,
            "; tokenize the text with this model's own tokenizer");
    }
  }
}

std::vector<int32_t> segment_of(const std::vector<int32_t>& ids, int64_t begin, int64_t length) {
  return {ids.begin() + begin, ids.begin() + begin + length};
}

std::vector<int32_t> tokenize(const std::string& text, const Tokenizer& tokenizer) {
  check(!is_python_blank(text), "the text is empty; nothing to tokenize");
  std::vector<int32_t> ids = tokenizer.encode(text);
  const std::vector<int32_t> prefix = tokenizer.prefix();
  ids.insert(ids.begin(), prefix.begin(), prefix.end());
  return ids;
}

TokenSet consecutive_segments(const std::vector<int32_t>& ids, int64_t length) {
  check_length(ids, length);
  TokenSet set;
  set.protocol = concat("consecutive segments of ", length);
  set.source_hash = hex(hash_bytes(bytes_of(ids)));
  const int64_t count = static_cast<int64_t>(ids.size()) / length;
  for (int64_t i = 0; i < count; ++i) set.segments.push_back(segment_of(ids, i * length, length));
  return set;
}

TokenSet random_segments(const std::vector<int32_t>& ids, int64_t count, int64_t length,
                         uint64_t seed) {
  check_length(ids, length);
  check(count >= 1, "at least one segment is needed, asked for ", count);
  TokenSet set;
  set.protocol = concat(count, " random segments of ", length, ", seed ", seed);
  set.source_hash = hex(hash_bytes(bytes_of(ids)));
  std::mt19937_64 random(seed);
  // The modulo's bias, places / 2^64, is nothing; std::uniform_int_distribution differs by library.
  const uint64_t places = ids.size() - static_cast<size_t>(length) + 1;
  for (int64_t i = 0; i < count; ++i) {
    set.segments.push_back(segment_of(ids, static_cast<int64_t>(random() % places), length));
  }
  return set;
}

std::string read_text(const std::filesystem::path& path) {
  std::string text = universal_newlines(read_maybe_gzip(path, max_text_bytes));
  const bool packed = path.extension() == ".gz";
  if ((packed ? path.stem() : path).extension() == ".jsonl") {
    text = text_of_json_lines(text, path.string());
  }
  if (!is_utf8(text)) fail(path.string(), " is not UTF-8 text; convert it first");
  check(!is_python_blank(text), path, " holds no text");
  return text;
}

std::string join_wikitext_rows(std::string_view text) {
  std::string joined;
  bool is_first = true;
  for_each_line(text, [&](std::string_view line) {
    if (!is_first) joined += "\n\n";
    is_first = false;
    if (!is_python_blank(line)) joined += line;
  });
  return joined;
}

TokenSet tokens_from_json(const std::filesystem::path& path, const std::string& key) {
  const std::string text = read_text_file(path);
  const std::string where = path.string();
  const nlohmann::json root = parse_json(text, where);
  if (!key.empty() && root.is_object() && !root.contains(key)) {
    std::string known;
    for (const auto& item : root.items()) known += " \"" + item.key() + "\"";
    fail(where, " has no \"", key, "\"; it has", known);
  }
  if (key.empty() && root.is_object()) {
    std::string known;
    for (const auto& item : root.items()) known += concat(" ", where, ":", item.key());
    fail(where, " holds several things; name one of them, as in", known);
  }
  const nlohmann::json& list = key.empty() ? root : json_at(root, key, where);
  if (!list.is_array() || list.empty()) {
    fail(where, ": \"", key, "\" must be a list of lists of token ids, and not empty");
  }
  TokenSet set;
  set.protocol = key.empty() ? "given" : "given: " + key;
  set.source_hash = hex(hash_bytes(text));
  for (const nlohmann::json& row : list) {
    const std::string name = concat(key, "[", set.segments.size(), "]");
    if (!row.is_array() || row.empty()) fail(where, ": ", name, " must be a list of token ids");
    std::vector<int32_t>& segment = set.segments.emplace_back();
    for (const nlohmann::json& id : row) {
      segment.push_back(
          static_cast<int32_t>(json_int(id, name, where, 0, std::numeric_limits<int32_t>::max())));
    }
  }
  return set;
}

void save_tokens(const std::filesystem::path& path, const TokenSet& tokens, bool is_sealed) {
  check(!tokens.segments.empty(), "save_tokens: ", path, ": no segments");
  check(tokens.documents.empty() || tokens.documents.size() == tokens.segments.size(),
        "save_tokens: ", path, ": ", tokens.documents.size(), " documents of ", tokens.count(),
        " segments; each segment has one, or none is known");
  check(tokens.token_count() <= std::numeric_limits<int32_t>::max(), "save_tokens: ", path, ": ",
        tokens.token_count(), " tokens; at most 2^31 - 1 fit a token file");
  std::vector<int32_t> ids, offsets = {0};
  for (const std::vector<int32_t>& segment : tokens.segments) {
    check(!segment.empty(), "save_tokens: ", path, ": segment ", offsets.size() - 1, " is empty");
    ids.insert(ids.end(), segment.begin(), segment.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
  Hdf5File file = Hdf5File::create(path);
  file.set_attribute("token_file", int64_t{1});  // version of this layout
  file.set_attribute("protocol", tokens.protocol);
  file.set_attribute("tokenizer_hash", tokens.tokenizer_hash);
  file.set_attribute("source_hash", tokens.source_hash);
  file.write("ids", Tensor::from(ids, {static_cast<int64_t>(ids.size())}));
  file.write("offsets", Tensor::from(offsets, {static_cast<int64_t>(offsets.size())}));
  if (!tokens.documents.empty()) {
    const std::vector<int32_t> documents(tokens.documents.begin(), tokens.documents.end());
    file.write("documents", Tensor::from(documents, {static_cast<int64_t>(documents.size())}));
  }
  is_sealed ? file.publish_sealed() : file.publish();
}

TokenSet load_tokens(const std::filesystem::path& path) {
  const Hdf5File file = Hdf5File::open(path);
  if (!file.has_attribute("token_file") || !file.has("ids") || !file.has("offsets")) {
    fail(path.string(), " is not a token file; make one with: cbq tokenize");
  }
  const int64_t version = file.int_attribute("token_file");
  if (version != 1) fail(path.string(), ": token file of version ", version, ", known: 1");
  const Tensor ids_tensor = file.read("ids"), offsets_tensor = file.read("offsets");
  if (ids_tensor.dtype() != Dtype::i32 || offsets_tensor.dtype() != Dtype::i32 ||
      ids_tensor.rank() != 1 || offsets_tensor.rank() != 1) {
    fail(path.string(), ": ids and offsets must be i32 lists");
  }
  const auto ids = ids_tensor.to_vector<int32_t>(), offsets = offsets_tensor.to_vector<int32_t>();
  const bool covers = offsets.size() >= 2 && offsets.front() == 0 &&
                      offsets.back() == static_cast<int64_t>(ids.size());
  // Strictly increasing: no segment is empty, none leaves the ids.
  if (!covers ||
      std::adjacent_find(offsets.begin(), offsets.end(), std::greater_equal<>()) != offsets.end()) {
    fail(path.string(), ": the segment table does not fit the ", ids.size(), " ids");
  }
  if (*std::min_element(ids.begin(), ids.end()) < 0) fail(path.string(), ": negative token id");
  TokenSet set{{},
               file.string_attribute("protocol"),
               file.string_attribute("tokenizer_hash"),
               file.string_attribute("source_hash")};
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    set.segments.push_back(segment_of(ids, offsets[i], offsets[i + 1] - offsets[i]));
  }
  if (file.has("documents")) {
    const Tensor documents = file.read("documents");
    if (documents.dtype() != Dtype::i32 || documents.shape() != Shape{set.count()}) {
      fail(path.string(), ": documents must be an i32 list with one number per segment");
    }
    const auto numbers = documents.to_vector<int32_t>();
    set.documents.assign(numbers.begin(), numbers.end());
  }
  return set;
}

TokenSource TokenSource::parse(const std::string& source) {
  std::error_code error;
  const size_t colon = source.rfind(':');
  if (std::filesystem::exists(source, error) || colon == std::string::npos) return {source, ""};
  return {source.substr(0, colon), source.substr(colon + 1)};
}

bool TokenSource::holds_ids() const {
  const std::filesystem::path extension = path.extension();
  return extension == ".h5" || extension == ".hdf5" || extension == ".json";
}

TokenSet TokenSource::load() const {
  return path.extension() == ".json" ? tokens_from_json(path, key) : load_tokens(path);
}

std::string TokenSource::name() const {
  return path.stem().string() + (key.empty() ? "" : ":" + key);
}

}  // namespace cbq
