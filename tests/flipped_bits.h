// Damage: a file with one bit flipped, at many places.
#pragma once

#include <algorithm>
#include <functional>
#include <string>

namespace cbq {

/// Calls f(text with one bit flipped) for every bit of the first `dense` bytes, and behind them for
/// one bit of every `stride`-th byte.
inline void for_each_flipped_bit(const std::string& text, size_t dense, size_t stride,
                                 const std::function<void(const std::string&)>& f) {
  std::string flipped = text;
  const auto flip = [&](size_t byte, int bit) {
    flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << bit));
    f(flipped);
    flipped[byte] = text[byte];
  };
  dense = std::min(dense, text.size());
  for (size_t at = 0; at < dense; at += stride) {
    for (int bit = 0; bit < 8; ++bit) flip(at, bit);
  }
  for (size_t at = dense; at < text.size(); at += stride) flip(at, static_cast<int>(at % 8));
}

}  // namespace cbq
