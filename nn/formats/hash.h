// Hashes that tell whether two things are the same: not cryptographic, they guard against mix-ups
// and not against someone who wants a collision.
//
//   hash_bytes   64 bits of a file or of token ids: written into token files and reports, where
//                people compare it by eye
//   Digest       128 bits of whole models, settings and streams: keys of caches and of runs to
//                resume, where an accident among many must be as good as impossible
//
// Both are in files of earlier runs, so neither may change.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace cbq {

/// FNV-1a over 8-byte words (the last one padded with zeros), each followed by a shift that carries
/// the high bits down, and over the number of bytes. `seed` chains calls:
///   hash_bytes(b, hash_bytes(a)).
uint64_t hash_bytes(std::string_view bytes, uint64_t seed = 0xcbf29ce484222325ull);

/// 16 hexadecimal digits.
std::string hex(uint64_t hash);

/// Hash of a sequence of byte strings: two 64-bit lanes, each a multiply-and-fold (xor of the high
/// and low half of a 128-bit product, as in wyhash and MUM) over 8-byte words with its own
/// constants. About 3 GB/s, so a checkpoint hashes faster than it loads. The length of every part
/// enters, so ("ab", "c") and ("a", "bc") differ.
class Digest {
 public:
  Digest& add(const void* bytes, size_t count);
  Digest& add(std::string_view text) { return add(text.data(), text.size()); }
  Digest& add(int64_t number) { return add(&number, sizeof number); }
  /// Dtype, shape and bytes.
  Digest& add(const Tensor& tensor);
  /// 32 hexadecimal digits.
  std::string hex() const;

 private:
  std::array<uint64_t, 2> lanes_ = {0x243F6A8885A308D3ull, 0x13198A2E03707344ull};  // pi
};

}  // namespace cbq
