// A stable 64-bit hash of bytes, for cache keys and provenance. Not cryptographic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace cbq {

/// FNV-1a over 8-byte words (the last one padded with zeros), each followed by a shift that carries
/// the high bits down, and over the number of bytes. `seed` chains calls:
///   hash_bytes(b, hash_bytes(a)).
inline uint64_t hash_bytes(std::string_view bytes, uint64_t seed = 0xcbf29ce484222325ull) {
  uint64_t hash = seed;
  const auto mix = [&hash](uint64_t word) {
    hash = (hash ^ word) * 0x100000001b3ull;
    hash ^= hash >> 29;
  };
  for (size_t i = 0; i < bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min<size_t>(bytes.size() - i, 8));
    mix(word);
  }
  mix(bytes.size());
  mix(hash >> 32);
  return hash;
}

/// 16 hexadecimal digits.
inline std::string hex(uint64_t hash) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, hash >>= 4) {
    text[static_cast<size_t>(i)] = "0123456789abcdef"[hash & 15];
  }
  return text;
}

}  // namespace cbq
