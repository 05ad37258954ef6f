#define PCRE2_CODE_UNIT_WIDTH 8
#include "nn/text/tokenizers/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <vector>

#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/unsupported.h"

namespace cbq {
namespace {

// Unicode's White_Space. PCRE2's own \s has U+180E besides, which is none since Unicode 6.3.
constexpr const char* white_space =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Classes nest no deeper than this in real patterns; the translator calls itself for each level.
constexpr int max_class_depth = 32;

/// Whether PCRE2 compiles the expression.
bool is_pattern(const std::string& text) {
  int error = 0;
  size_t offset = 0;
  const std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP,
                    &error, &offset, nullptr),
      pcre2_code_free);
  return code != nullptr;
}

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& what) : in_(pattern), what_(what) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        out_ += escape();
      } else if (c == '[') {
        out_ += expression_of(character_class(1));
      } else if (in_.compare(at_, 2, "(?") == 0) {
        group();
      } else {
        if (c == '}' && at_ + 1 < in_.size() && in_[at_ + 1] == '+') refuse("'}+'");
        if (in_.compare(at_, 2, "{,") == 0) refuse("'{,'");  // {0,n} there, these characters here
        if (c == '{' && is_exact_count_made_optional()) refuse("'{n}?'");
        out_ += c;
        ++at_;
      }
    }
    return out_;
  }

 private:
  /// What a class holds between two '&&'. PCRE2 has neither intersections nor negated classes
  /// within classes, so that such members become expressions of their own.
  struct Members {
    std::string simple;                    // characters, ranges, escapes: fit between brackets
    std::vector<std::string> expressions;  // each matches one character
  };
  /// [A&&B&&...], negated or not.
  struct Class {
    bool is_negated = false;
    std::vector<Members> operands;
    bool is_simple() const { return operands.size() == 1 && operands[0].expressions.empty(); }
  };

  [[noreturn]] void refuse(const std::string& construct) const {
    const std::string shown =
        in_.size() <= 300 ? in_ : concat(in_.substr(0, 300), "... (", in_.size(), " bytes)");
    refuse_tokenizer(what_, ": the pattern ", shown, " uses ", construct, " at position ", at_,
                     ", which is not supported");
  }

  /// {3}? is "three, as few as possible" to PCRE2 and "three or none" to Oniguruma.
  bool is_exact_count_made_optional() const {
    size_t end = at_ + 1;
    while (end < in_.size() && in_[end] >= '0' && in_[end] <= '9') ++end;
    return end > at_ + 1 && in_.compare(end, 2, "}?") == 0;
  }

  /// Takes an escape outside of a class and returns it in PCRE2's dialect.
  std::string escape() {
    if (in_.compare(at_, 2, "\\s") == 0 || in_.compare(at_, 2, "\\S") == 0) {
      const bool is_negated = in_[at_ + 1] == 'S';
      at_ += 2;
      return concat(is_negated ? "[^" : "[", white_space, "]");
    }
    return plain_escape();
  }

  /// An escape that reads the same within and outside of a class; '\s' only within.
  std::string plain_escape() {
    if (at_ + 1 == in_.size()) refuse("a backslash without a character");
    const char c = in_[at_ + 1];
    if (c == 's') {
      at_ += 2;
      return white_space;
    }
    if (c == 'u') {
      const size_t digits =
          std::min(in_.find_first_not_of("0123456789abcdefABCDEF", at_ + 2), in_.size());
      if (digits < at_ + 6) refuse("\\u without four digits");
      at_ += 6;
      return concat("\\x{", in_.substr(at_ - 4, 4), "}");
    }
    if (in_.compare(at_ + 1, 2, "p{") == 0 || in_.compare(at_ + 1, 2, "P{") == 0 ||
        in_.compare(at_ + 1, 2, "x{") == 0) {
      const size_t begin = at_;
      at_ = std::min(in_.find('}', at_), in_.size() - 1) + 1;
      std::string text = in_.substr(begin, at_ - begin);
      // A script's name stands for the script here, for its extensions ("。" and the like) in
      // PCRE2.
      if (c != 'x') {
        std::string script = text;
        script.insert(script.find('^') == 3 ? 4 : 3, "sc:");
        if (is_pattern(script)) return script;
      }
      return text;
    }
    if (std::string_view("dDrntfx").find(c) == std::string_view::npos &&
        std::string_view("^$\\.[]|()?*+{}-/'\"#!,:;=<>@%&~` ").find(c) == std::string_view::npos) {
      refuse(concat("'\\", c, "'"));
    }
    at_ += 2;
    return in_.substr(at_ - 2, 2);
  }

  /// Reads from the '[' at at_ to behind the ']' that closes it. `depth`: classes open by then.
  Class character_class(int depth) {
    if (depth > max_class_depth) {
      refuse(concat("classes nested deeper than ", max_class_depth, " levels"));
    }
    ++at_;
    Class result;
    result.operands.emplace_back();
    if (at_ < in_.size() && in_[at_] == '^') {
      result.is_negated = true;
      ++at_;
    }
    for (bool first = true; at_ < in_.size(); first = false) {
      const char c = in_[at_];
      Members& members = result.operands.back();
      const bool is_empty = members.simple.empty() && members.expressions.empty();
      if (c == ']' && !first) {
        if (is_empty) refuse("'&&' without members behind it");
        ++at_;
        return result;
      }
      if (in_.compare(at_, 2, "[:") == 0) refuse("'[:'");
      if (in_.compare(at_, 2, "&&") == 0) {
        if (is_empty) refuse("'&&' without members in front of it");
        result.operands.emplace_back();
        at_ += 2;
      } else if (c == '[') {
        add_nested(character_class(depth + 1), &members);
      } else if (in_.compare(at_, 2, "\\S") == 0) {
        members.expressions.push_back(escape());
      } else {
        members.simple += member();
      }
    }
    refuse("a class without an end");
  }

  /// A character, an escape or a range within a class.
  std::string member() {
    std::string first = character();
    const bool is_range = at_ + 1 < in_.size() && in_[at_] == '-' && in_[at_ + 1] != ']' &&
                          in_[at_ + 1] != '[' && in_.compare(at_ + 1, 2, "&&") != 0 &&
                          is_one_character(first);
    if (!is_range) return first;
    ++at_;
    const std::string last = character();
    // A set at a range's end: the hyphen stands for itself in both dialects.
    return concat(first, is_one_character(last) ? "-" : "\\-", last);
  }

  /// Characters that may have a meaning at some place of a class are escaped: members of nested
  /// classes move to other places.
  std::string character() {
    if (in_[at_] == '\\') return plain_escape();
    const size_t size = std::min(character_size(in_[at_]), in_.size() - at_);
    at_ += size;
    const std::string text = in_.substr(at_ - size, size);
    return text == "-" || text == "^" || text == "]" ? concat("\\", text) : text;
  }

  static bool is_one_character(const std::string& member) {
    return member[0] != '\\' ||
           (std::string_view("dDpP").find(member[1]) == std::string_view::npos &&
            member != white_space);
  }

  void add_nested(const Class& nested, Members* members) const {
    if (!nested.is_negated && nested.is_simple()) {
      members->simple += nested.operands[0].simple;
    } else {
      members->expressions.push_back(expression_of(nested));
    }
  }

  /// An expression for one character of the class.
  static std::string expression_of(const Class& c) {
    if (c.is_simple()) return concat(c.is_negated ? "[^" : "[", c.operands[0].simple, "]");
    std::string all;
    for (size_t i = 0; i < c.operands.size(); ++i) {
      const bool is_last = i + 1 == c.operands.size();
      const std::string one = expression_of(c.operands[i]);
      all += is_last ? one : concat("(?=", one, ")");
    }
    return c.is_negated ? concat("(?:(?!", all, ")(?s:.))") : concat("(?:", all, ")");
  }

  static std::string expression_of(const Members& members) {
    std::string any = members.simple.empty() ? "" : concat("[", members.simple, "]");
    for (const std::string& expression : members.expressions) {
      any += concat(any.empty() ? "" : "|", expression);
    }
    return concat("(?:", any, ")");
  }

  void group() {
    constexpr const char* known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    for (const std::string prefix : known) {
      if (in_.compare(at_, prefix.size(), prefix) != 0) continue;
      // Later on, Oniguruma's reaches over the alternatives that follow, PCRE2's does not.
      if (prefix == "(?i)" && at_ != 0) refuse("'(?i)' in mid-pattern");
      out_ += prefix;
      at_ += prefix.size();
      return;
    }
    refuse(concat("the group '", in_.substr(at_, 4), "'"));
  }

  const std::string& in_;
  const std::string& what_;
  std::string out_;
  size_t at_ = 0;
};

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

std::string pcre2_from_oniguruma(const std::string& pattern, const std::string& what) {
  return Translator(pattern, what).run();
}

struct RegexScratch::Data {
  explicit Data(const pcre2_code* code)
      : match(pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free),
        limits(pcre2_match_context_create(nullptr), pcre2_match_context_free) {
    // A pattern that backtracks without end gives up after seconds, and before it takes gigabytes.
    pcre2_set_match_limit(limits.get(), 10'000'000);
    pcre2_set_heap_limit(limits.get(), 512u << 10);  // KiB
  }
  std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match;
  std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> limits;
};

RegexScratch::RegexScratch(const Regex& regex)
    : data_(std::make_unique<Data>(static_cast<const pcre2_code*>(regex.code_.get()))) {}
RegexScratch::~RegexScratch() = default;

Regex::Regex(const std::string& pattern, const std::string& what) : what_(what) {
  const std::string translated = pcre2_from_oniguruma(pattern, what);
  int error = 0;
  size_t offset = 0;
  // In Oniguruma '^' and '$' match at every line.
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code) {
    fail(what_, ": the pattern ", pattern.substr(0, 300),
         " cannot be compiled: ", pcre_message(error), " (at position ", offset, " of ",
         translated.substr(0, 300), ")");
  }
  code_ = std::shared_ptr<const void>(
      code, [](const void* c) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(c))); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
}

void Regex::for_each_match(std::string_view text,
                           const std::function<void(size_t, size_t)>& f) const {
  RegexScratch scratch(*this);
  for_each_match(text, &scratch, [&f](size_t begin, size_t end) {
    if (end > begin) f(begin, end);
  });
}

void Regex::for_each_match(std::string_view text, RegexScratch* scratch,
                           const std::function<void(size_t, size_t)>& f) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  pcre2_match_data* match = scratch->data_->match.get();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto find = [&](size_t at, uint32_t options) {
    // The text is known to be UTF-8; checking it again for each match would be quadratic.
    return pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | options, match,
                       scratch->data_->limits.get());
  };
  size_t end_of_last = std::string_view::npos;
  for (size_t at = 0; at <= text.size();) {
    int found = find(at, 0);
    // Compiled code has a small stack of its own; the interpreter takes memory up to the limit.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = find(at, PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0) fail(what_, ": splitting a text failed: ", pcre_message(found));
    const size_t* span = pcre2_get_ovector_pointer(match);
    const size_t begin = span[0], end = span[1];
    // An empty match behind the last match does not count: on to the next character.
    if (begin == end && end == end_of_last) {
      at = end < text.size() ? end + character_size(text[end]) : end + 1;
      continue;
    }
    f(begin, end);
    at = end_of_last = end;
  }
}

}  // namespace cbq
