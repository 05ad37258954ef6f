#include "nn/text/tokenizers/pre_tokenizer.h"

#include <utf8proc.h>

#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "nn/text/tokenizers/patterns.h"
#include "nn/text/tokenizers/unsupported.h"

namespace cbq {
namespace {

using nlohmann::json;

utf8proc_category_t category_of(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_numeric(char32_t c) {
  const auto category = category_of(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

/// Unicode's punctuation, and what ASCII counts to it ($+<=>^`|~).
bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) ||
           (c >= 0x7b && c <= 0x7e);
  }
  switch (category_of(c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_PS:
      return true;
    default:
      return false;
  }
}

std::string type_of(const json& json, const std::string& what) {
  return json_string(json_at(json, "type", what), "type", what);
}

bool option(const json& json, const char* key, bool otherwise, const std::string& what) {
  const nlohmann::json& value = json_find(json, key, what);
  return value.is_null() ? otherwise : json_bool(value, key, what);
}

std::string one_character(const json& json, const char* key, const std::string& what) {
  const std::string text = json_string(json_at(json, key, what), key, what);
  if (text.empty() || character_size(text[0]) != text.size()) {
    fail(what, ": \"", key, "\" must be one character, is \"", text, "\"");
  }
  return text;
}

/// Builds a new text word by word.
class Rewriter {
 public:
  explicit Rewriter(Words* words) : words_(words) { text_.reserve(words->text.size() + 16); }
  ~Rewriter() { words_->text = std::move(text_); }
  Rewriter(const Rewriter&) = delete;
  Rewriter& operator=(const Rewriter&) = delete;

  /// Calls f(word, index, result) for each word; f appends what the word becomes to *result.
  template <class F>
  void each(F&& f) {
    for (size_t i = 0; i < words_->spans.size(); ++i) {
      Span& span = words_->spans[i];
      const size_t begin = text_.size();
      f(std::string_view(words_->text).substr(span.begin, span.end - span.begin), i, &text_);
      span = {begin, text_.size()};
    }
  }

 private:
  Words* words_;
  std::string text_;
};

}  // namespace

PreTokenizer PreTokenizer::gpt2(bool add_prefix_space) {
  PreTokenizer result;
  result.add_byte_level(add_prefix_space, true);
  return result;
}

PreTokenizer PreTokenizer::qwen2(bool add_prefix_space) {
  PreTokenizer result;
  result.steps_.emplace_back(
      Splitter(Pattern(Regex(qwen2_pattern, "Qwen2")), SplitBehavior::isolated));
  result.add_byte_level(add_prefix_space, false);
  return result;
}

PreTokenizer PreTokenizer::from_json(const json& json, const std::string& what) {
  PreTokenizer result;
  if (!json.is_null()) result.add(json, what + ": \"pre_tokenizer\"");
  return result;
}

void PreTokenizer::add_byte_level(bool adds_space, bool uses_pattern) {
  if (adds_space) steps_.emplace_back(ByteLevel{true});
  if (uses_pattern) {
    steps_.emplace_back(
        Splitter(Pattern(Regex(gpt2_pattern, "ByteLevel")), SplitBehavior::isolated));
  }
  steps_.emplace_back(ToBytes{});
  has_byte_level_ = true;
}

void PreTokenizer::add(const json& json, const std::string& what) {
  const std::string type = type_of(json, what);
  const auto split_by = [this](auto pattern, SplitBehavior behavior, bool invert = false) {
    steps_.emplace_back(Splitter(Pattern(std::move(pattern)), behavior, invert));
  };
  if (type == "Sequence") {
    const nlohmann::json& list = json_at(json, "pretokenizers", what);
    if (!list.is_array()) fail(what, ": \"pretokenizers\" must be a list");
    for (const nlohmann::json& part : list) add(part, what);
  } else if (type == "ByteLevel") {
    add_byte_level(option(json, "add_prefix_space", true, what),
                   option(json, "use_regex", true, what));
  } else if (type == "Split") {
    const std::string behavior = json_string(json_at(json, "behavior", what), "behavior", what);
    split_by(Pattern::from_json(json_at(json, "pattern", what), what),
             split_behavior_from_name(behavior, what), option(json, "invert", false, what));
  } else if (type == "Digits") {
    split_by(is_numeric, option(json, "individual_digits", false, what)
                             ? SplitBehavior::isolated
                             : SplitBehavior::contiguous);
  } else if (type == "Punctuation") {
    const nlohmann::json& behavior = json_find(json, "behavior", what);
    split_by(is_punctuation,
             behavior.is_null()
                 ? SplitBehavior::isolated
                 : split_behavior_from_name(json_string(behavior, "behavior", what), what));
  } else if (type == "Whitespace") {
    split_by(is_white_space, SplitBehavior::removed);
    split_by(is_word_character, SplitBehavior::contiguous);
  } else if (type == "WhitespaceSplit") {
    split_by(is_white_space, SplitBehavior::removed);
  } else if (type == "CharDelimiterSplit") {
    const std::string text = one_character(json, "delimiter", what);
    size_t at = 0;
    const char32_t delimiter = next_character(text, &at);
    split_by([delimiter](char32_t c) { return c == delimiter; }, SplitBehavior::removed);
  } else if (type == "Metaspace") {
    Metaspace step;
    step.mark = one_character(json, "replacement", what);
    const nlohmann::json& scheme = json_find(json, "prepend_scheme", what);
    const std::string name =
        scheme.is_null() ? "always" : json_string(scheme, "prepend_scheme", what);
    if (name != "always" && name != "first" && name != "never") {
      fail(what, ": there is no prepend_scheme ", name, "; known: always first never");
    }
    step.prepend = name == "always"  ? Metaspace::Prepend::always
                   : name == "first" ? Metaspace::Prepend::first
                                     : Metaspace::Prepend::never;
    // Files of old versions have this option in place of the scheme.
    if (!option(json, "add_prefix_space", true, what)) step.prepend = Metaspace::Prepend::never;
    const std::string mark = step.mark;
    steps_.emplace_back(std::move(step));
    if (option(json, "split", true, what)) {
      size_t at = 0;
      const char32_t character = next_character(mark, &at);
      split_by([character](char32_t c) { return c == character; }, SplitBehavior::merged_with_next);
    }
  } else {
    refuse_tokenizer(what, ": the type ", type,
                     " is not supported, only ByteLevel, Split, Digits, Punctuation, Whitespace, ",
                     "WhitespaceSplit, CharDelimiterSplit, Metaspace and Sequence");
  }
}

Words PreTokenizer::split(std::string text, bool begins_text) const {
  Words words{std::move(text), {}, begins_text};
  if (!words.text.empty()) words.spans.push_back({0, words.text.size()});
  for (const auto& step : steps_) {
    if (const auto* splitter = std::get_if<Splitter>(&step)) {
      const size_t begin = words.spans.empty() ? 0 : words.spans[0].begin;
      words.spans = splitter->split(words.text, words.spans);
      words.begins_text &= !words.spans.empty() && words.spans[0].begin == begin;
    } else if (std::holds_alternative<ToBytes>(step)) {
      Rewriter(&words).each([](std::string_view word, size_t, std::string* result) {
        for (const char c : word) append_token_of_byte(static_cast<unsigned char>(c), result);
      });
    } else if (std::holds_alternative<ByteLevel>(step)) {
      Rewriter(&words).each([](std::string_view word, size_t, std::string* result) {
        if (!word.starts_with(' ')) *result += ' ';
        *result += word;
      });
    } else {
      const auto& metaspace = std::get<Metaspace>(step);
      Rewriter(&words).each([&](std::string_view word, size_t i, std::string* result) {
        const bool adds =
            metaspace.prepend == Metaspace::Prepend::always ||
            (metaspace.prepend == Metaspace::Prepend::first && i == 0 && words.begins_text);
        if (adds && !word.starts_with(' ') && !word.starts_with(metaspace.mark)) {
          *result += metaspace.mark;
        }
        for (const char c : word) {
          if (c == ' ') {
            *result += metaspace.mark;
          } else {
            *result += c;
          }
        }
      });
    }
  }
  return words;
}

}  // namespace cbq
