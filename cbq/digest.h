// Digest: 128 bits that tell whether two runs are about the same thing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace cbq {

/// Hash of a sequence of byte strings: two 64-bit lanes, each a multiply-and-fold (xor of the high
/// and low half of a 128-bit product, as in wyhash and MUM) over 8-byte words with its own
/// constants. It guards against
/// mix-ups (another model, other tokens, other settings), where 2^-128 is as good as never; it does
/// not guard against someone who wants a collision. About 3 GB/s, so a checkpoint hashes faster
/// than it loads. The length of every part enters, so ("ab", "c") and ("a", "bc") differ.
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
