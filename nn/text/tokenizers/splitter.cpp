#include "nn/text/tokenizers/splitter.h"

#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace cbq {
namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (std::string_view("^$\\.[]|()?*+{}").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

using Pieces = std::vector<Pattern::Piece>;

/// Parts of one word from its pieces; empty parts may be among them.
class Parts {
 public:
  explicit Parts(std::vector<Span>* parts) : parts_(parts) {}

  void removed(const Pieces& pieces) {
    for (const auto& [span, is_match] : pieces) {
      if (!is_match) parts_->push_back(span);
    }
  }

  void isolated(const Pieces& pieces) {
    for (const auto& piece : pieces) parts_->push_back(piece.span);
  }

  /// A piece of the same kind as the one before it is joined to it.
  void contiguous(const Pieces& pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0 && pieces[i].is_match == pieces[i - 1].is_match) {
        parts_->back().end = pieces[i].span.end;
      } else {
        parts_->push_back(pieces[i].span);
      }
    }
  }

  /// A match is joined to the piece in front of it, unless that is a match as well.
  void merged_with_previous(const Pieces& pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0 && pieces[i].is_match && !pieces[i - 1].is_match) {
        parts_->back().end = pieces[i].span.end;
      } else {
        parts_->push_back(pieces[i].span);
      }
    }
  }

  /// A match is joined to the piece behind it, unless that is a match as well.
  void merged_with_next(const Pieces& pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0 && pieces[i - 1].is_match && !pieces[i].is_match) {
        parts_->back().end = pieces[i].span.end;
      } else {
        parts_->push_back(pieces[i].span);
      }
    }
  }

 private:
  std::vector<Span>* parts_;
};

}  // namespace

SplitBehavior split_behavior_from_name(const std::string& name, const std::string& what) {
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail(what, ": there is no split behavior ", name,
       "; known: Removed Isolated MergedWithPrevious MergedWithNext Contiguous");
}

Pattern Pattern::from_json(const nlohmann::json& json, const std::string& what) {
  const nlohmann::json& regex = json_find(json, "Regex", what);
  if (!regex.is_null()) return Pattern(Regex(json_string(regex, "Regex", what), what));
  return of_text(json_string(json_at(json, "String", what), "String", what), what);
}

Pattern Pattern::of_text(const std::string& text, const std::string& what) {
  if (text.empty()) fail(what, ": the pattern is an empty text");
  return Pattern(Regex(escaped(text), what));
}

Pattern::Finder::Finder(const Pattern& pattern) : pattern_(pattern) {
  if (pattern.regex_) scratch_.emplace(*pattern.regex_);
}

void Pattern::Finder::find(std::string_view text, std::vector<Piece>* pieces) {
  pieces->clear();
  size_t done = 0;
  const auto add_match = [&](size_t begin, size_t end) {
    if (begin > done) pieces->push_back({{done, begin}, false});
    pieces->push_back({{begin, end}, true});
    done = end;
  };
  if (pattern_.regex_) {
    pattern_.regex_->for_each_match(text, &*scratch_, add_match);
  } else {
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (pattern_.is_match_(next_character(text, &at))) add_match(begin, at);
    }
  }
  if (done < text.size()) pieces->push_back({{done, text.size()}, false});
}

std::vector<Span> Splitter::split(std::string_view text, const std::vector<Span>& words) const {
  std::vector<Span> result, parts;
  Pieces pieces;
  Pattern::Finder finder(pattern_);
  Parts joined(&parts);
  for (const Span& word : words) {
    parts.clear();
    finder.find(text.substr(word.begin, word.end - word.begin), &pieces);
    if (invert_) {
      for (Pattern::Piece& piece : pieces) piece.is_match = !piece.is_match;
    }
    switch (behavior_) {
      case SplitBehavior::removed:
        joined.removed(pieces);
        break;
      case SplitBehavior::isolated:
        joined.isolated(pieces);
        break;
      case SplitBehavior::contiguous:
        joined.contiguous(pieces);
        break;
      case SplitBehavior::merged_with_previous:
        joined.merged_with_previous(pieces);
        break;
      case SplitBehavior::merged_with_next:
        joined.merged_with_next(pieces);
        break;
    }
    for (const Span& part : parts) {
      if (part.end > part.begin) result.push_back({word.begin + part.begin, word.begin + part.end});
    }
  }
  return result;
}

}  // namespace cbq
