#include "nn/formats/hash.h"

#include <cstring>

namespace cbq {
namespace {

__extension__ using uint128 = unsigned __int128;

/// High and low half of a b, folded: every bit of both factors reaches every bit of the result.
uint64_t fold(uint64_t a, uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

/// Calls f for every 8 bytes; the last are filled up with zeros.
template <class F>
void for_each_word(std::string_view bytes, F&& f) {
  const char* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);  // of a known size: one load
    f(word);
  }
  if (left == 0) return;
  uint64_t word = 0;
  std::memcpy(&word, at, left);
  f(word);
}

}  // namespace

uint64_t hash_bytes(std::string_view bytes, uint64_t seed) {
  uint64_t hash = seed;
  const auto mix = [&hash](uint64_t word) {
    hash = (hash ^ word) * 0x100000001b3ull;
    hash ^= hash >> 29;
  };
  for_each_word(bytes, mix);
  mix(bytes.size());
  mix(hash >> 32);
  return hash;
}

std::string hex(uint64_t hash) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, hash >>= 4) {
    text[static_cast<size_t>(i)] = "0123456789abcdef"[hash & 15];
  }
  return text;
}

Digest& Digest::add(const void* bytes, size_t count) {
  const auto mix = [this](uint64_t word) {
    // The lane enters both factors: a zero factor cannot erase what came before.
    lanes_[0] = fold(lanes_[0] ^ word, 0x9E3779B97F4A7C15ull) + lanes_[0];
    lanes_[1] = fold(lanes_[1] ^ word, 0xD1342543DE82EF95ull) + (lanes_[1] << 1 | lanes_[1] >> 63);
  };
  for_each_word({static_cast<const char*>(bytes), count}, mix);
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
  return cbq::hex(fold(lanes_[0] ^ lanes_[1], 0xA0761D6478BD642Full)) +
         cbq::hex(fold(lanes_[1] + 0xE7037ED1A0B428DBull, lanes_[0] | 1));
}

}  // namespace cbq
