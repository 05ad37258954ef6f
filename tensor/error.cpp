#include "tensor/error.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace cbq::detail {
namespace {

/// Bytes of the UTF-8 character at the front of `text`; 0 if there is none (Unicode 15, table 3-7).
size_t character_at_front(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  const unsigned char second = byte(1);
  if (first == 0xe0 && second < 0xa0) return 0;  // longer than needed
  if (first == 0xed && second > 0x9f) return 0;  // a surrogate
  if (first == 0xf0 && second < 0x90) return 0;
  if (first == 0xf4 && second > 0x8f) return 0;  // beyond U+10FFFF
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return size;
}

/// For a character of UTF-8: the controls of ASCII, except newline and tab, and U+0080 to U+009F,
/// which some terminals obey as well (U+009B begins a sequence as ESC [ does).
bool is_control(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 2) return byte(0) == 0xc2 && byte(1) < 0xa0;
  return character.size() == 1 &&
         ((byte(0) < 0x20 && byte(0) != '\n' && byte(0) != '\t') || byte(0) == 0x7f);
}

/// `text` with bytes that are no UTF-8, and control characters, as "\xHH".
std::string escaped(std::string_view text) {
  constexpr const char* digits = "0123456789abcdef";
  std::string result;
  while (!text.empty()) {
    const size_t size = std::max<size_t>(1, character_at_front(text));
    const std::string_view character = text.substr(0, size);
    if (character_at_front(text) == 0 || is_control(character)) {
      for (const char c : character) {
        const auto byte = static_cast<unsigned char>(c);
        result += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
      }
    } else {
      result += character;
    }
    text.remove_prefix(size);
  }
  return result;
}

constexpr size_t longest_message = 3000, kept_at_an_end = 1200;

/// Where the character begins that `at` lies in.
size_t character_begin(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && (text[at] & 0xc0) == 0x80) --at;
  return at;
}

}  // namespace

std::string readable(const std::string& text) {
  const std::string_view all = text;
  // Escaping makes a text longer, so both ends are escaped before they are cut to their length.
  if (all.size() <= 2 * longest_message) {
    const std::string whole = escaped(all);
    if (whole.size() <= longest_message) return whole;
  }
  const size_t half = std::min(longest_message, all.size() / 2);
  const std::string front = escaped(all.substr(0, character_begin(all, half)));
  const std::string back = escaped(all.substr(character_begin(all, all.size() - half)));
  return front.substr(0, character_begin(front, kept_at_an_end)) +
         " ... [the middle is left out] ... " +
         back.substr(character_begin(back, back.size() - std::min(back.size(), kept_at_an_end)));
}

}  // namespace cbq::detail
