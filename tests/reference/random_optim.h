// References of the random tensors (a second Philox, written from the paper) and of optimizer
// steps.
#pragma once

#include <array>

#include "tests/reference/array.h"

namespace cbq::reference {

/// Philox4x32-10 (Salmon et al. 2011, section 3.4): counter and key in, four words out.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter,
                                      std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    const auto high = [](uint64_t x) { return static_cast<uint32_t>(x / 4294967296ull); };
    counter = {high(right) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
               high(left) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};  // golden ratio, sqrt(3) - 1
  }
  return counter;
}

/// Centre of one of 2^23 equal cells of (0, 1), chosen by the upper bits of word index % 4 of block
/// index / 4.
inline double uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x % 4294967296ull); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x / 4294967296ull); };
  const auto block =
      philox({low(index / 4), high(index / 4), low(stream), high(stream)}, {low(seed), high(seed)});
  return (std::floor(block[index % 4] / 512.0) + 0.5) / 8388608.0;
}

inline Array uniforms(const Array& like, double low, double high, uint64_t seed, uint64_t stream) {
  Array y(like.shape);
  for (int64_t i = 0; i < y.count(); ++i) {
    y(i) = low + (high - low) * uniform(seed, stream, static_cast<uint64_t>(i));
  }
  return y;
}

inline Array normals(const Array& like, double mean, double deviation, uint64_t seed,
                     uint64_t stream) {
  Array y(like.shape);
  for (int64_t i = 0; i < y.count(); ++i) {
    const auto index = static_cast<uint64_t>(2 * i);
    const double radius = std::sqrt(-2.0 * std::log(uniform(seed, stream, index)));
    y(i) = mean + deviation * radius * std::cos(2.0 * M_PI * uniform(seed, stream, index + 1));
  }
  return y;
}

struct Adam {
  double rate, beta1, beta2, eps, decay;
};

/// {p, m, v} after step t (from 1).
inline Arrays adam_step(Array p, const Array& g, Array m, Array v, const Adam& a, int64_t t) {
  for (int64_t i = 0; i < p.count(); ++i) {
    m(i) = a.beta1 * m(i) + (1.0 - a.beta1) * g(i);
    v(i) = a.beta2 * v(i) + (1.0 - a.beta2) * g(i) * g(i);
    const double first = m(i) / (1.0 - std::pow(a.beta1, static_cast<double>(t)));
    const double second = v(i) / (1.0 - std::pow(a.beta2, static_cast<double>(t)));
    p(i) = p(i) - a.rate * first / (std::sqrt(second) + a.eps) - a.rate * a.decay * p(i);
  }
  return {p, m, v};
}

inline Array sign_sgd_step(Array p, const Array& g, double rate) {
  for (int64_t i = 0; i < p.count(); ++i) {
    if (g(i) > 0.0) p(i) -= rate;
    if (g(i) < 0.0) p(i) += rate;
  }
  return p;
}

}  // namespace cbq::reference
