// Python's `random`, so that samples drawn by published scripts are drawn here again, to the id.
#pragma once

#include <cstdint>
#include <random>

namespace cbq {

/// random.Random(seed) of CPython 3: the Mersenne Twister (Matsumoto & Nishimura 1998; the same as
/// std::mt19937), seeded by init_by_array with the seed's 32-bit words.
class PythonRandom {
 public:
  /// random.seed(seed) for a non-negative integer.
  explicit PythonRandom(uint64_t seed);
  /// getrandbits(bits), 1 <= bits <= 64.
  uint64_t getrandbits(int bits);
  /// randint(low, high): uniform over low, ..., high, both included, by rejection. Throws
  /// std::invalid_argument when the range is empty.
  int64_t randint(int64_t low, int64_t high);

 private:
  std::mt19937 twister_;
};

}  // namespace cbq
