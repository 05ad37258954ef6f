// Philox4x32-10: random numbers as a function of a counter (Salmon et al., "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC 2011; the generator behind cuRAND's PHILOX4_32_10).
//
// Element i of tensor `stream` under `seed` always gets the same number, on any device, in any
// order, after any interruption.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace cbq {

struct PhiloxBlock {
  uint32_t x[4];
};

/// Ten rounds on counter {c0..c3} with key {k0, k1}.
CBQ_HD inline PhiloxBlock philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                     uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0;
    const uint64_t p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The four words of elements 4 block, ..., 4 block + 3 of `stream` under `seed`.
CBQ_HD inline PhiloxBlock philox_block(uint64_t seed, uint64_t stream, uint64_t block) {
  return philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32),
                    static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

/// 32 random bits for element `index` of `stream` under `seed`.
CBQ_HD inline uint32_t philox_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox_block(seed, stream, index / 4).x[index % 4];
}

/// Uniform on (0, 1): the centre of one of 2^23 equal cells, so that log() is always finite. (With
/// 2^24 cells the upper half of the centres would need a 25th bit: the last one would round to 1.)
CBQ_HD inline float philox_uniform(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * 1.1920928955078125e-7f;
}
CBQ_HD inline float philox_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox_uniform(philox_bits(seed, stream, index));
}

}  // namespace cbq
