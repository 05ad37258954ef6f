#include "nn/text/python_random.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t words = 624;

/// The state that the twister's authors' init_by_array() leaves: first that of the seed 19650218,
/// then two rounds that mix in the key and the position.
std::vector<uint32_t> state_by_array(const std::vector<uint32_t>& key) {
  std::vector<uint32_t> state(words);
  state[0] = 19650218u;
  for (uint32_t i = 1; i < words; ++i) {
    state[i] = 1812433253u * (state[i - 1] ^ state[i - 1] >> 30) + i;
  }
  size_t i = 1, j = 0;
  const auto previous = [&] { return state[i - 1] ^ state[i - 1] >> 30; };
  const auto advance = [&] {
    if (++i < words) return;
    state[0] = state[words - 1];
    i = 1;
  };
  for (size_t k = std::max(words, key.size()); k > 0; --k) {
    state[i] = (state[i] ^ previous() * 1664525u) + key[j] + static_cast<uint32_t>(j);
    advance();
    j = (j + 1) % key.size();
  }
  for (size_t k = words - 1; k > 0; --k) {
    state[i] = (state[i] ^ previous() * 1566083941u) - static_cast<uint32_t>(i);
    advance();
  }
  state[0] = 0x80000000u;
  return state;
}

/// std::mt19937 takes its state, word by word, from a "seed sequence"; this one hands it over.
struct GivenState {
  using result_type = uint32_t;
  std::vector<uint32_t> state;
  template <class Iterator>
  void generate(Iterator begin, Iterator) {
    std::copy(state.begin(), state.end(), begin);
  }
};

GivenState state_of_seed(uint64_t seed) {
  std::vector<uint32_t> key = {static_cast<uint32_t>(seed)};
  if (seed >> 32) key.push_back(static_cast<uint32_t>(seed >> 32));
  return {state_by_array(key)};
}

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) {
  GivenState state = state_of_seed(seed);
  twister_.seed(state);
}

uint64_t PythonRandom::getrandbits(int bits) {
  check(bits >= 1 && bits <= 64, "getrandbits: 1 to 64 bits, asked for ", bits);
  if (bits <= 32) return twister_() >> (32 - bits);
  const uint64_t low = twister_();
  return low | static_cast<uint64_t>(twister_()) >> (64 - bits) << 32;
}

int64_t PythonRandom::randint(int64_t low, int64_t high) {
  check(low <= high, "randint: the range [", low, ", ", high, "] is empty");
  const uint64_t count = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) + 1;
  check(count != 0, "randint: the range has 2^64 numbers");
  const int bits = std::bit_width(count);  // of count, not count - 1: as CPython has it
  uint64_t number = getrandbits(bits);
  while (number >= count) number = getrandbits(bits);
  return static_cast<int64_t>(static_cast<uint64_t>(low) + number);
}

}  // namespace cbq
