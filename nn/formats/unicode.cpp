#include "nn/formats/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace cbq {
namespace {

utf8proc_int32_t point(char32_t c) { return static_cast<utf8proc_int32_t>(c); }

struct Mapping {
  char32_t from;
  const char* to;
};

// utf8proc maps a character to one character. These have a title case of several, or one that their
// upper case does not show (Unicode's SpecialCasing.txt). Sorted.
constexpr Mapping long_title_cases[] = {{0x00df, "Ss"},
                                        {0x0149, "\u02bcN"},
                                        {0x01f0, "J\u030c"},
                                        {0x0390, "\u0399\u0308\u0301"},
                                        {0x03b0, "\u03a5\u0308\u0301"},
                                        {0x0587, "\u0535\u0582"},
                                        {0x1e96, "H\u0331"},
                                        {0x1e97, "T\u0308"},
                                        {0x1e98, "W\u030a"},
                                        {0x1e99, "Y\u030a"},
                                        {0x1e9a, "A\u02be"},
                                        {0x1f50, "\u03a5\u0313"},
                                        {0x1f52, "\u03a5\u0313\u0300"},
                                        {0x1f54, "\u03a5\u0313\u0301"},
                                        {0x1f56, "\u03a5\u0313\u0342"},
                                        {0x1fb2, "\u1fba\u0345"},
                                        {0x1fb4, "\u0386\u0345"},
                                        {0x1fb6, "\u0391\u0342"},
                                        {0x1fb7, "\u0391\u0342\u0345"},
                                        {0x1fc2, "\u1fca\u0345"},
                                        {0x1fc4, "\u0389\u0345"},
                                        {0x1fc6, "\u0397\u0342"},
                                        {0x1fc7, "\u0397\u0342\u0345"},
                                        {0x1fd2, "\u0399\u0308\u0300"},
                                        {0x1fd3, "\u0399\u0308\u0301"},
                                        {0x1fd6, "\u0399\u0342"},
                                        {0x1fd7, "\u0399\u0308\u0342"},
                                        {0x1fe2, "\u03a5\u0308\u0300"},
                                        {0x1fe3, "\u03a5\u0308\u0301"},
                                        {0x1fe4, "\u03a1\u0313"},
                                        {0x1fe6, "\u03a5\u0342"},
                                        {0x1fe7, "\u03a5\u0308\u0342"},
                                        {0x1ff2, "\u1ffa\u0345"},
                                        {0x1ff4, "\u038f\u0345"},
                                        {0x1ff6, "\u03a9\u0342"},
                                        {0x1ff7, "\u03a9\u0342\u0345"},
                                        {0xfb00, "Ff"},
                                        {0xfb01, "Fi"},
                                        {0xfb02, "Fl"},
                                        {0xfb03, "Ffi"},
                                        {0xfb04, "Ffl"},
                                        {0xfb05, "St"},
                                        {0xfb06, "St"},
                                        {0xfb13, "\u0544\u0576"},
                                        {0xfb14, "\u0544\u0565"},
                                        {0xfb15, "\u0544\u056b"},
                                        {0xfb16, "\u054e\u0576"},
                                        {0xfb17, "\u0544\u056d"}};

std::string title_case(char32_t c) {
  const Mapping* at = std::lower_bound(std::begin(long_title_cases), std::end(long_title_cases), c,
                                       [](const Mapping& m, char32_t x) { return m.from < x; });
  if (at != std::end(long_title_cases) && at->from == c) return at->to;
  std::string text;
  append_character(static_cast<char32_t>(utf8proc_totitle(point(c))), &text);
  return text;
}

/// Unicode's Case_Ignorable: marks, format characters, modifiers, and signs within a word.
bool is_case_ignorable(char32_t c) {
  switch (utf8proc_category(point(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      break;
  }
  constexpr std::array<char32_t, 17> signs = {0x27,   0x2e,   0x3a,   0xb7,   0x387,  0x55f,
                                              0x5f4,  0x2018, 0x2019, 0x2024, 0x2027, 0xfe13,
                                              0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
  return std::find(signs.begin(), signs.end(), c) != signs.end();
}

/// Letters in circles and squares: symbols that count as letters.
bool is_enclosed_letter(char32_t c) {
  return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
         (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/// Unicode's Cased: letters of both cases, and what is written like them (ordinals, numerals,
/// letters in circles and squares).
bool is_cased(char32_t c) {
  switch (utf8proc_category(point(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      break;
  }
  return c == 0xaa || c == 0xba || (c >= 0x2160 && c <= 0x217f) || is_enclosed_letter(c);
}

/// Unicode's Final_Sigma for the sigma in [begin, end): a cased character stands before it, none
/// behind it; case-ignorable characters between do not count.
bool is_final_sigma(std::string_view text, size_t begin, size_t end) {
  bool letter_before = false;
  for (size_t at = begin; at > 0;) {
    size_t here = at = previous_character(text, at);
    const char32_t c = next_character(text, &here);
    if (is_case_ignorable(c)) continue;
    letter_before = is_cased(c);
    break;
  }
  if (!letter_before) return false;
  while (end < text.size()) {
    const char32_t c = next_character(text, &end);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

/// Appends the lower case of text[begin, end of text).
void append_lower(std::string_view text, size_t begin, std::string* result) {
  for (size_t at = begin; at < text.size();) {
    const size_t here = at;
    const char32_t c = next_character(text, &at);
    if (c == 0x3a3) {
      append_character(is_final_sigma(text, here, at) ? 0x3c2 : 0x3c3, result);
    } else if (c == 0x130) {  // the only lower case of two characters: i and a dot above
      *result += "i\u0307";
    } else {
      append_character(static_cast<char32_t>(utf8proc_tolower(point(c))), result);
    }
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < static_cast<size_t>(more)) return false;
    uint32_t point = lead & (0x3fu >> more);
    for (int k = 0; k < more; ++k) {
      const auto next = static_cast<unsigned char>(text[i++]);
      if ((next & 0xc0u) != 0x80u) return false;
      point = point << 6 | (next & 0x3fu);
    }
    const uint32_t smallest = more == 1 ? 0x80u : more == 2 ? 0x800u : 0x10000u;
    if (point < smallest || point > 0x10ffffu || (point >= 0xd800u && point <= 0xdfffu)) {
      return false;
    }
  }
  return true;
}

char32_t next_character(std::string_view text, size_t* at) {
  const auto first = static_cast<unsigned char>(text[*at]);
  if (first < 0x80) {
    ++*at;
    return first;
  }
  utf8proc_int32_t c = 0;
  const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + *at),
                                     static_cast<utf8proc_ssize_t>(text.size() - *at), &c);
  if (size <= 0) {
    ++*at;
    return 0xfffd;
  }
  *at += static_cast<size_t>(size);
  return static_cast<char32_t>(c);
}

size_t previous_character(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return begin;
}

void append_character(char32_t character, std::string* text) {
  if (character < 0x80) {
    *text += static_cast<char>(character);
    return;
  }
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto size = utf8proc_encode_char(point(character), bytes.data());
  text->append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(size));
}

size_t character_size(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(point(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200c || c == 0x200d || is_enclosed_letter(c);
  }
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); }

std::string_view python_rstrip(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = previous_character(text, end);
    size_t at = begin;
    if (!is_python_space(next_character(text, &at))) break;
    end = begin;
  }
  return text.substr(0, end);
}

std::string_view python_strip(std::string_view text) {
  size_t begin = 0;
  for (size_t at = 0; at < text.size(); begin = at) {
    if (!is_python_space(next_character(text, &at))) break;
  }
  return python_rstrip(text.substr(begin));
}

bool is_python_blank(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (!is_python_space(next_character(text, &at))) return false;
  }
  return true;
}

std::string python_lower(std::string_view text) {
  std::string result;
  append_lower(text, 0, &result);
  return result;
}

std::string python_capitalize(std::string_view text) {
  if (text.empty()) return "";
  size_t at = 0;
  std::string result = title_case(next_character(text, &at));
  append_lower(text, at, &result);
  return result;
}

std::string universal_newlines(std::string text) {
  size_t to = 0;
  for (size_t from = 0; from < text.size(); ++from) {
    const bool is_return = text[from] == '\r';
    if (is_return && from + 1 < text.size() && text[from + 1] == '\n') ++from;
    text[to++] = is_return ? '\n' : text[from];
  }
  text.resize(to);
  return text;
}

}  // namespace cbq
