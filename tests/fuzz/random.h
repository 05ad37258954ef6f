// Random choices of one fuzz case: a function of (seed, target, case number), on every machine.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/formulas/philox.h"
#include "nn/formats/hash.h"

namespace cbq::fuzz {

class Random {
 public:
  Random(uint64_t seed, std::string_view target, uint64_t number)
      : seed_(hash_bytes(target, seed)), stream_(number) {}

  uint32_t bits() { return philox_bits(seed_, stream_, at_++); }
  /// Uniform on 0, ..., bound - 1, for 1 <= bound < 2^32 (the modulo's bias does not matter here).
  size_t below(size_t bound) { return bits() % bound; }
  bool one_in(size_t count) { return below(count) == 0; }
  /// 1, 2, 4, ... up to `most`: small numbers are as frequent as large ones.
  size_t any_size(size_t most) {
    size_t limit = 1;
    while (limit < most && !one_in(6)) limit *= 2;
    return 1 + below(limit < most ? limit : most);
  }
  template <class T>
  const T& of(const std::vector<T>& values) {
    return values[below(values.size())];
  }

 private:
  uint64_t seed_, stream_;
  uint64_t at_ = 0;
};

}  // namespace cbq::fuzz
