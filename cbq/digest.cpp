#include "cbq/digest.h"

#include <cstring>

namespace cbq {
namespace {

__extension__ using uint128 = unsigned __int128;

/// High and low half of a b, folded: every bit of both factors reaches every bit of the result.
uint64_t fold(uint64_t a, uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

Digest& Digest::add(const void* bytes, size_t count) {
  const auto mix = [this](uint64_t word) {
    // The lane enters both factors: a zero factor cannot erase what came before.
    lanes_[0] = fold(lanes_[0] ^ word, 0x9E3779B97F4A7C15ull) + lanes_[0];
    lanes_[1] = fold(lanes_[1] ^ word, 0xD1342543DE82EF95ull) + (lanes_[1] << 1 | lanes_[1] >> 63);
  };
  const char* at = static_cast<const char*>(bytes);
  size_t left = count;
  for (; left >= 8; left -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    mix(word);
  }
  if (left > 0) {
    uint64_t word = 0;
    std::memcpy(&word, at, left);
    mix(word);
  }
  mix(static_cast<uint64_t>(count));
  return *this;
}

Digest& Digest::add(const Tensor& tensor) {
  add(std::string_view(name_of(tensor.dtype())));
  for (const int64_t extent : tensor.shape()) add(extent);
  const Tensor host = tensor.to(Device::cpu());
  return add(host.raw(), static_cast<size_t>(host.bytes()));
}

std::string Digest::hex() const {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  const uint64_t last[2] = {fold(lanes_[0] ^ lanes_[1], 0xA0761D6478BD642Full),
                            fold(lanes_[1] + 0xE7037ED1A0B428DBull, lanes_[0] | 1)};
  for (const uint64_t word : last) {
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[(word >> shift) & 15];
  }
  return text;
}

}  // namespace cbq
