// Tokens that are found in a text as a whole, before it is divided into words ("<|endoftext|>").
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace cbq {

/// The largest id that is read from a file: far more than any vocabulary has, so that a damaged id
/// is not taken for the size of a table.
inline constexpr int32_t max_token_id = (1 << 21) - 1;

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;           // a control token: decode leaves it out
  bool strips_left = false;       // takes the white space in front of it along ...
  bool strips_right = false;      // ... and behind it
  bool single_word = false;       // only where no letter or digit touches it
  bool after_normalizer = false;  // looked for in the normalized text
};

/// Finds tokens in a text: the leftmost first, of several at one place the longest.
class AddedTokenFinder {
 public:
  /// A piece of a text: a token, or (token == nullptr) text between tokens.
  struct Piece {
    std::string_view text;
    const AddedToken* token;
  };
  AddedTokenFinder() = default;
  AddedTokenFinder(AddedTokenFinder&&) = default;
  AddedTokenFinder& operator=(AddedTokenFinder&&) = default;
  AddedTokenFinder(const AddedTokenFinder&) = delete;
  AddedTokenFinder& operator=(const AddedTokenFinder&) = delete;
  /// Of tokens with the same content the first one counts.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);
  bool is_empty() const { return by_content_.empty(); }
  /// Empty pieces are left out. The pieces live as long as this object and `text`.
  std::vector<Piece> split(std::string_view text) const;

 private:
  const AddedToken* token_at(std::string_view text) const;
  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string_view, const AddedToken*> by_content_;  // into tokens_
  std::array<std::vector<size_t>, 256> sizes_;  // of contents by their first byte, longest first
};

}  // namespace cbq
