#include "experiments/inputs.h"

#include <array>
#include <cstdio>
#include <memory>
#include <vector>

#include "nn/formats/hash.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// All ids of a text, and the hashes that say what they came from.
struct TokenizedText {
  std::vector<int32_t> ids;
  std::string tokenizer_hash, source_hash;
};

TokenizedText tokenize_file(const std::filesystem::path& file,
                            const std::filesystem::path& tokenizer_folder) {
  const std::string text = read_text(file);
  const auto tokenizer = load_tokenizer(tokenizer_folder);
  return {tokenize(text, *tokenizer), tokenizer->hash(), hex(hash_bytes(text))};
}

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

std::filesystem::path project_root() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (std::filesystem::path start : {program.parent_path(), std::filesystem::current_path()}) {
    for (; !start.empty(); start = start.parent_path()) {
      if (std::filesystem::is_directory(start / "experiments" / "tables", error)) return start;
      if (start == start.root_path()) break;
    }
  }
  fail("the project's folder (with experiments/tables) is neither above ",
       program.parent_path().string(), " nor above the current folder; run from within it");
}

std::string git_version(const std::filesystem::path& folder) {
  const std::string command = "git -C " + shell_quoted(folder.string()) +
                              " describe --always --dirty --abbrev=12 2>/dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::array<char, 128> line{};
  if (!pipe || std::fgets(line.data(), line.size(), pipe.get()) == nullptr) return "unknown";
  std::string version = line.data();
  while (!version.empty() && version.back() == '\n') version.pop_back();
  return version;
}

std::filesystem::path model_folder(const std::filesystem::path& name_or_path,
                                   const std::filesystem::path& root) {
  constexpr std::pair<const char*, const char*> named[] = {
      {"embedded", "models/embedded"}, {"smollm2", "build/models/smollm2-135m"}};
  std::error_code error;
  for (const auto& [name, folder] : named) {
    if (name_or_path == name && !std::filesystem::exists(name_or_path, error)) {
      return std::filesystem::relative(root / folder);
    }
  }
  return name_or_path;
}

void require_file(const std::string& source, const std::string& what, const std::string& remedy) {
  std::error_code error;
  const std::filesystem::path file = TokenSource::parse(source).path;
  if (std::filesystem::exists(file, error)) return;
  fail(what, " ", file.string(), " does not exist; ", remedy);
}

TokenSet calibration_tokens(const std::string& source,
                            const std::filesystem::path& tokenizer_folder, int64_t count,
                            int64_t length) {
  const TokenSource ids = TokenSource::parse(source);
  if (!ids.holds_ids()) {
    const TokenizedText text = tokenize_file(source, tokenizer_folder);
    TokenSet tokens = random_segments(text.ids, count, length, 0);
    tokens.tokenizer_hash = text.tokenizer_hash;
    tokens.source_hash = text.source_hash;
    return tokens;
  }
  TokenSet tokens = ids.load();
  check(tokens.count() >= count, source, ": ", tokens.count(), " segments; --segments asks ",
        "for ", count);
  tokens = tokens.slice(0, count);
  for (std::vector<int32_t>& segment : tokens.segments) {
    check(static_cast<int64_t>(segment.size()) >= length, source, ": a segment of ", segment.size(),
          " ids; --segment-length asks for ", length);
    segment.resize(static_cast<size_t>(length));
  }
  tokens.protocol =
      concat("the first ", count, " segments of the file, cut to ", length, " tokens");
  return tokens;
}

TokenSet evaluation_tokens(const std::string& source, const std::filesystem::path& tokenizer_folder,
                           int64_t length, int64_t max_tokens) {
  TokenSet all;
  const TokenSource ids = TokenSource::parse(source);
  if (ids.holds_ids()) {
    all = ids.load();
    for (const std::vector<int32_t>& segment : all.segments) {
      check(static_cast<int64_t>(segment.size()) <= length, source, ": a segment of ",
            segment.size(), " ids; the model's context holds ", length);
    }
    if (all.protocol.empty()) all.protocol = "segments of the file";
  } else {
    const TokenizedText text = tokenize_file(source, tokenizer_folder);
    all = consecutive_segments(text.ids, length);
    all.tokenizer_hash = text.tokenizer_hash;
    all.source_hash = text.source_hash;
  }
  const int64_t count = all.count();
  const int64_t mean = std::max<int64_t>(1, all.token_count() / std::max<int64_t>(1, count));
  const int64_t wanted = max_tokens == 0 ? count : std::max<int64_t>(1, max_tokens / mean);
  if (wanted >= count) return all;
  TokenSet some = all;
  some.segments.clear();
  for (int64_t i = 0; i < wanted; ++i) {
    some.segments.push_back(all.segments[static_cast<size_t>(i * count / wanted)]);
  }
  some.protocol = concat(all.protocol, ", ", wanted, " of ", count, " evenly spaced");
  return some;
}

}  // namespace cbq
