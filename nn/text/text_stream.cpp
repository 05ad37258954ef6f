#include "nn/text/text_stream.h"

#include <string_view>

namespace cbq {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD: bytes that are no character yet

/// Bytes of an unfinished UTF-8 character at the end of `text`.
size_t unfinished_bytes(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // goes on with a character
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<int32_t> ids)
    : tokenizer_(tokenizer), ids_(std::move(ids)), given_(tokenizer.decode(ids_).size()) {}

std::string TextStream::text_after(size_t begin) const {
  const std::string all = tokenizer_.decode(ids_);
  return begin < all.size() ? all.substr(begin) : std::string();
}

std::string TextStream::add(int32_t id) {
  ids_.push_back(id);
  std::string text = text_after(given_);
  // An unfinished character may have become U+FFFD, or stand there as its bytes.
  while (text.ends_with(replacement)) text.resize(text.size() - replacement.size());
  text.resize(text.size() - unfinished_bytes(text));
  given_ += text.size();
  return text;
}

std::string TextStream::rest() {
  std::string text = text_after(given_);
  given_ += text.size();
  return text;
}

}  // namespace cbq
