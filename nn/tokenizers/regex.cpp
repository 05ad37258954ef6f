#define PCRE2_CODE_UNIT_WIDTH 8
#include "nn/tokenizers/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>

#include "tensor/error.h"

namespace cbq {
namespace {

// Unicode's White_Space. PCRE2's own \s has U+180E besides, which is none since Unicode 6.3.
constexpr const char* white_space =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& what) : in_(pattern), what_(what) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape(false);
      } else if (c == '[') {
        out_ += '[';
        ++at_;
        character_class();
        out_ += ']';
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
  [[noreturn]] void refuse(const std::string& construct) const {
    fail(what_, ": the pattern ", in_, " uses ", construct, " at position ", at_,
         ", which is not supported");
  }

  /// {3}? is "three, as few as possible" to PCRE2 and "three or none" to Oniguruma.
  bool is_exact_count_made_optional() const {
    size_t end = at_ + 1;
    while (end < in_.size() && in_[end] >= '0' && in_[end] <= '9') ++end;
    return end > at_ + 1 && in_.compare(end, 2, "}?") == 0;
  }

  void escape(bool in_class) {
    if (at_ + 1 == in_.size()) refuse("a backslash without a character");
    const char c = in_[at_ + 1];
    if (c == 's') {
      out_ += in_class ? white_space : concat("[", white_space, "]");
    } else if (c == 'S' && !in_class) {
      out_ += concat("[^", white_space, "]");
    } else if (c == 'u') {
      const size_t digits =
          std::min(in_.find_first_not_of("0123456789abcdefABCDEF", at_ + 2), in_.size());
      if (digits < at_ + 6) refuse("\\u without four digits");
      out_ += concat("\\x{", in_.substr(at_ + 2, 4), "}");
      at_ += 4;
    } else if (in_.compare(at_ + 1, 2, "p{") == 0 || in_.compare(at_ + 1, 2, "P{") == 0 ||
               in_.compare(at_ + 1, 2, "x{") == 0) {
      const size_t end = std::min(in_.find('}', at_), in_.size() - 1) + 1;
      out_ += in_.substr(at_, end - at_);
      at_ = end;
      return;
    } else if (std::string_view("dDrntfx").find(c) != std::string_view::npos ||
               std::string_view("^$\\.[]|()?*+{}-/'\"#!,:;=<>@%&~` ").find(c) !=
                   std::string_view::npos) {
      out_ += in_.substr(at_, 2);
    } else {
      refuse(concat("'\\", c, "'"));
    }
    at_ += 2;
  }

  /// Behind '[': to the ']' that closes it, which is not written. A class within a class is a
  /// union: its members are written into the outer one.
  void character_class(bool nested = false) {
    if (at_ < in_.size() && in_[at_] == '^') {
      if (nested) refuse("a negated class within a class");
      out_ += '^';
      ++at_;
    }
    for (bool first = true; at_ < in_.size(); first = false) {
      const char c = in_[at_];
      if (c == ']' && !first) {
        ++at_;
        return;
      }
      if (in_.compare(at_, 2, "[:") == 0) refuse("'[:'");
      if (in_.compare(at_, 2, "&&") == 0) refuse("'&&'");
      if (c == '\\') {
        escape(true);
      } else if (c == '[') {
        ++at_;
        character_class(true);
      } else {
        out_ += c;
        ++at_;
      }
    }
    refuse("a class without an end");
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

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

std::string pcre2_from_oniguruma(const std::string& pattern, const std::string& what) {
  return Translator(pattern, what).run();
}

Regex::Regex(const std::string& pattern, const std::string& what) : what_(what) {
  const std::string translated = pcre2_from_oniguruma(pattern, what);
  int error = 0;
  size_t offset = 0;
  // In Oniguruma '^' and '$' match at every line.
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code) {
    fail(what, ": the pattern ", pattern, " cannot be compiled: ", message_of(error),
         " (at position ", offset, " of ", translated, ")");
  }
  code_ = std::shared_ptr<const void>(
      code, [](const void* c) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(c))); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
}

void Regex::for_each_match(std::string_view text,
                           const std::function<void(size_t, size_t)>& f) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at < text.size();) {
    // The text is known to be UTF-8; checking it again for each match would be quadratic.
    const int found =
        pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0) fail(what_, ": splitting a text failed: ", message_of(found));
    const size_t* span = pcre2_get_ovector_pointer(match.get());
    if (span[1] > span[0]) {
      f(span[0], span[1]);
      at = span[1];
      continue;
    }
    at = span[1] + 1;  // an empty match: on to the next character
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  }
}

}  // namespace cbq
