#include "nn/rope.h"

#include <cmath>
#include <vector>

namespace cbq {
namespace {

constexpr double two_pi = 6.283185307179586476925;

// f32 throughout, as transformers computes it: a last-bit difference here grows with the position.
float scaled_frequency(const RopeConfig& config, float frequency) {
  if (config.type == "linear") return frequency / static_cast<float>(config.factor);
  if (config.type != "llama3") return frequency;
  const double original = static_cast<double>(config.original_max_position_embeddings);
  const double wavelength = two_pi / static_cast<double>(frequency);
  if (wavelength > original / config.low_freq_factor) {
    return frequency / static_cast<float>(config.factor);
  }
  if (wavelength < original / config.high_freq_factor) return frequency;
  const double smooth = (original / wavelength - config.low_freq_factor) /
                        (config.high_freq_factor - config.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * static_cast<double>(frequency) / config.factor +
                            smooth * static_cast<double>(frequency));
}

}  // namespace

RopeTables rope_tables(const RopeConfig& config, int64_t head_dim, int64_t positions,
                       Device device) {
  const int64_t half = head_dim / 2;
  std::vector<float> cosine(static_cast<size_t>(positions * half)), sine(cosine.size());
  for (int64_t j = 0; j < half; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    const float frequency =
        scaled_frequency(config, 1.0f / std::pow(static_cast<float>(config.theta), exponent));
    for (int64_t t = 0; t < positions; ++t) {
      const float angle = static_cast<float>(t) * frequency;
      cosine[static_cast<size_t>(t * half + j)] = std::cos(angle);
      sine[static_cast<size_t>(t * half + j)] = std::sin(angle);
    }
  }
  const Shape shape = {positions, half};
  return {Tensor::from(cosine, shape, Dtype::f32, device),
          Tensor::from(sine, shape, Dtype::f32, device)};
}

}  // namespace cbq
