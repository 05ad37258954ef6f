// Dividing a text where a pattern matches, as the library `tokenizers` does for every
// pre-tokenizer.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nn/text/tokenizers/regex.h"

namespace cbq {

/// Bytes [begin, end) of a text.
struct Span {
  size_t begin, end;
};

/// What becomes of the matches of a pattern.
enum class SplitBehavior {
  removed,               // matches are left out
  isolated,              // a match is a part of its own
  merged_with_previous,  // ... belongs to the part in front of it
  merged_with_next,      // ... to the part behind it
  contiguous             // neighbouring matches are one part
};
/// Reads "Isolated" and the like. Throws std::runtime_error, naming `what`.
SplitBehavior split_behavior_from_name(const std::string& name, const std::string& what);

/// A pattern: a regular expression, or a class of characters.
class Pattern {
 public:
  explicit Pattern(Regex regex) : regex_(std::move(regex)) {}
  explicit Pattern(std::function<bool(char32_t)> is_match) : is_match_(std::move(is_match)) {}
  /// {"Regex": expression} or {"String": text}. Throws std::runtime_error, naming `what`.
  static Pattern from_json(const nlohmann::json& json, const std::string& what);
  /// Matches `text` itself.
  static Pattern of_text(const std::string& text, const std::string& what);

  /// A match, or what lies between two.
  struct Piece {
    Span span;
    bool is_match;
  };
  /// The whole text in pieces, in order; pieces that match may be empty.
  class Finder {
   public:
    explicit Finder(const Pattern& pattern);
    void find(std::string_view text, std::vector<Piece>* pieces);

   private:
    const Pattern& pattern_;
    std::optional<RegexScratch> scratch_;
  };

 private:
  std::optional<Regex> regex_;
  std::function<bool(char32_t)> is_match_;
};

/// Divides texts by a pattern. `invert`: what does not match counts as a match, and the reverse.
class Splitter {
 public:
  Splitter(Pattern pattern, SplitBehavior behavior, bool invert = false)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  /// The parts of each of `words` (spans of `text`), without empty ones.
  std::vector<Span> split(std::string_view text, const std::vector<Span>& words) const;

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

}  // namespace cbq
