#include "nn/text/tokenizers/added_tokens.h"

#include <algorithm>

#include "nn/formats/unicode.h"

namespace cbq {
namespace {

/// Bytes of the white space that `text` begins with.
size_t leading_space(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size(); end = at) {
    if (!is_white_space(next_character(text, &at))) break;
  }
  return end;
}

/// Bytes of `text` without the white space at its end.
size_t size_without_trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = previous_character(text, end);
    size_t at = begin;
    if (!is_white_space(next_character(text, &at))) break;
    end = begin;
  }
  return end;
}

/// Whether letters or digits touch text[begin, end).
bool is_within_a_word(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    size_t at = previous_character(text, begin);
    if (is_word_character(next_character(text, &at))) return true;
  }
  return end < text.size() && is_word_character(next_character(text, &end));
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (const AddedToken& token : tokens_) {
    if (token.content.empty() || !by_content_.emplace(token.content, &token).second) continue;
    std::vector<size_t>& sizes = sizes_[static_cast<unsigned char>(token.content[0])];
    sizes.push_back(token.content.size());
  }
  for (std::vector<size_t>& sizes : sizes_) {
    std::sort(sizes.begin(), sizes.end(), std::greater<>());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  }
}

const AddedToken* AddedTokenFinder::token_at(std::string_view text) const {
  for (const size_t size : sizes_[static_cast<unsigned char>(text[0])]) {
    if (size > text.size()) continue;
    const auto at = by_content_.find(text.substr(0, size));
    if (at != by_content_.end()) return at->second;
  }
  return nullptr;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  for (size_t at = 0; !is_empty() && at < text.size();) {
    const AddedToken* token = token_at(text.substr(at));
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->single_word && is_within_a_word(text, begin, end)) continue;
    if (token->strips_left) {
      begin = std::max(done, size_without_trailing_space(text.substr(0, begin)));
    }
    if (token->strips_right) end += leading_space(text.substr(end));
    if (begin > done) pieces.push_back({text.substr(done, begin - done), nullptr});
    pieces.push_back({text.substr(begin, end - begin), token});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), nullptr});
  return pieces;
}

}  // namespace cbq
