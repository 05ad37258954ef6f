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

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f;
}

/// `text` with bytes that are no UTF-8, and control characters, as "\xHH".
std::string escaped(std::string_view text) {
  constexpr const char* digits = "0123456789abcdef";
  std::string result;
  while (!text.empty()) {
    size_t size = character_at_front(text);
    if (size == 0 || is_control(text[0])) {
      const auto byte = static_cast<unsigned char>(text[0]);
      result += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
      size = 1;
    } else {
      result += text.substr(0, size);
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
