#include "nn/tokenizers/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

namespace cbq {
namespace {

bool is_white_space(utf8proc_int32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/// Bytes of the white space that `text` begins with.
size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t c = 0;
    const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                       static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    if (size <= 0 || !is_white_space(c)) break;
    at += static_cast<size_t>(size);
  }
  return at;
}

/// Bytes of `text` without the white space at its end.
size_t size_without_trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    if (leading_space(text.substr(begin, end - begin)) != end - begin) break;
    end = begin;
  }
  return end;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;
    by_first_byte_[static_cast<unsigned char>(tokens_[i].content[0])].push_back(i);
  }
  for (auto& list : by_first_byte_) {
    std::stable_sort(list.begin(), list.end(), [&](uint32_t a, uint32_t b) {
      return tokens_[a].content.size() > tokens_[b].content.size();
    });
  }
}

const AddedToken* AddedTokenFinder::token_at(std::string_view text) const {
  for (const uint32_t i : by_first_byte_[static_cast<unsigned char>(text[0])]) {
    if (text.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;
  const auto text_until = [&](size_t end) {
    if (end > done) parts.push_back({text.substr(done, end - done), nullptr});
  };
  for (size_t at = 0; !tokens_.empty() && at < text.size();) {
    const AddedToken* token = token_at(text.substr(at));
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    if (token->strips_left) {
      begin = done + size_without_trailing_space(text.substr(done, at - done));
    }
    if (token->strips_right) end += leading_space(text.substr(end));
    text_until(begin);
    parts.push_back({text.substr(begin, end - begin), token});
    done = at = end;
  }
  text_until(text.size());
  return parts;
}

}  // namespace cbq
