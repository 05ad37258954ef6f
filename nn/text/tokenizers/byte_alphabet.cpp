#include "nn/text/tokenizers/byte_alphabet.h"

#include <array>
#include <cstdint>

namespace cbq {
namespace {

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<uint16_t, 256> point{};       // of each byte
  std::array<int16_t, 0x100 + 68> byte{};  // of each code point; -1: none
};

constexpr Alphabet make_alphabet() {
  Alphabet a;
  a.byte.fill(-1);
  uint16_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const auto point = is_printable(b) ? static_cast<uint16_t>(b) : next++;
    a.point[static_cast<size_t>(b)] = point;
    a.byte[point] = static_cast<int16_t>(b);
  }
  return a;
}

constexpr Alphabet alphabet = make_alphabet();

}  // namespace

std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size(); ++i) {
    auto point = static_cast<uint32_t>(static_cast<unsigned char>(token[i]));
    if (point >= 0x80) {  // all of the alphabet's other characters have two bytes in UTF-8
      if (point < 0xc2 || point > 0xdf || i + 1 == token.size()) return std::nullopt;
      const auto next = static_cast<unsigned char>(token[++i]);
      if ((next & 0xc0) != 0x80) return std::nullopt;
      point = (point & 0x1f) << 6 | (next & 0x3f);
    }
    if (point >= alphabet.byte.size() || alphabet.byte[point] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet.byte[point]);
  }
  return bytes;
}

std::string token_of_byte(unsigned char byte) {
  std::string token;
  append_token_of_byte(byte, &token);
  return token;
}

void append_token_of_byte(unsigned char byte, std::string* text) {
  const uint16_t point = alphabet.point[byte];
  if (point < 0x80) {
    *text += static_cast<char>(point);
    return;
  }
  *text += static_cast<char>(0xc0 | point >> 6);
  *text += static_cast<char>(0x80 | (point & 0x3f));
}

}  // namespace cbq
