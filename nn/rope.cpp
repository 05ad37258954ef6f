#include "nn/rope.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/attention/varlen_rows.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

constexpr double pi = 3.141592653589793238463;
constexpr size_t kept_variants = 16;
constexpr int64_t fewest_positions = 256;  // so that growing tables grow rarely

/// The pairs between which YaRN's ramp rises from 0 to 1.
struct YarnRamp {
  YarnRamp(const RopeConfig& config, int64_t head_dim) {
    const double dim = static_cast<double>(head_dim);
    // The pair that turns `turns` times within the original context.
    const auto pair = [&](double turns) {
      const double original = static_cast<double>(config.original_max_position_embeddings);
      return dim * std::log(original / (turns * 2.0 * pi)) / (2.0 * std::log(config.theta));
    };
    low = pair(config.beta_fast);
    high = pair(config.beta_slow);
    if (config.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1.0);
    if (low == high) high += 0.001;
  }
  float at(int64_t j) const {
    const float value =
        (static_cast<float>(j) - static_cast<float>(low)) / static_cast<float>(high - low);
    return std::clamp(value, 0.0f, 1.0f);
  }
  double low, high;
};

}  // namespace

// In f32 where transformers computes in f32: a difference in the last bit of a frequency grows with
// the position.
float llama3_frequency(const RopeConfig& config, float frequency) {
  const double original = static_cast<double>(config.original_max_position_embeddings);
  const double wavelength = 2.0 * pi / static_cast<double>(frequency);
  if (wavelength > original / config.low_freq_factor) {
    return frequency / static_cast<float>(config.factor);
  }
  if (wavelength < original / config.high_freq_factor) return frequency;
  const double smooth = (original / wavelength - config.low_freq_factor) /
                        (config.high_freq_factor - config.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * static_cast<double>(frequency) / config.factor +
                            smooth * static_cast<double>(frequency));
}

double attention_factor(const RopeConfig& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.factor <= 1.0) return 1.0;
  const auto m = [&](double k) { return 0.1 * k * std::log(rope.factor) + 1.0; };
  if (rope.type == "yarn") {
    const double above = rope.mscale.value_or(0.0), below = rope.mscale_all_dim.value_or(0.0);
    return above != 0.0 && below != 0.0 ? m(above) / m(below) : m(1.0);
  }
  if (rope.type == "longrope") {
    const auto original = static_cast<double>(rope.original_max_position_embeddings);
    return std::sqrt(1.0 + std::log(rope.factor) / std::log(original));
  }
  return 1.0;
}

int64_t uniform_length(const RopeConfig& rope) {
  if (rope.type == "dynamic") return rope.dynamic_context;
  if (rope.type == "longrope") return rope.original_max_position_embeddings;
  return std::numeric_limits<int64_t>::max();
}

Rope::Rope(RopeConfig config, int64_t head_dim, Device device)
    : config_(std::move(config)), head_dim_(head_dim), device_(device) {}

int64_t Rope::variant_of(int64_t length) const {
  if (config_.type == "dynamic") return length > config_.dynamic_context ? length : 0;
  if (config_.type == "longrope") return length > config_.original_max_position_embeddings ? 1 : 0;
  return 0;
}

std::vector<float> Rope::frequencies(int64_t variant) const {
  const std::string& type = config_.type;
  const auto dim = static_cast<float>(head_dim_);
  auto theta = static_cast<float>(config_.theta);
  if (type == "dynamic" && variant > 0) {
    const float stretch = static_cast<float>(config_.factor) * static_cast<float>(variant) /
                              static_cast<float>(config_.dynamic_context) -
                          static_cast<float>(config_.factor - 1.0);
    const double power = static_cast<double>(head_dim_) / static_cast<double>(head_dim_ - 2);
    theta *= std::pow(stretch, static_cast<float>(power));
  }
  const auto factor = static_cast<float>(config_.factor);
  std::vector<float> all;
  for (int64_t j = 0; j < head_dim_ / 2; ++j) {
    const float period = std::pow(theta, static_cast<float>(2 * j) / dim);
    float frequency = 1.0f / period;
    if (type == "linear") {
      frequency /= factor;
    } else if (type == "llama3") {
      frequency = llama3_frequency(config_, frequency);
    } else if (type == "yarn") {
      const float kept = 1.0f - YarnRamp(config_, head_dim_).at(j);
      frequency = 1.0f / (factor * period) * (1.0f - kept) + frequency * kept;
    } else if (type == "longrope") {
      const std::vector<double>& factors =
          variant == 1 ? config_.long_factor : config_.short_factor;
      frequency = 1.0f / (static_cast<float>(factors.at(static_cast<size_t>(j))) * period);
    }
    all.push_back(frequency);
  }
  return all;
}

RopeTables Rope::make_tables(int64_t variant, int64_t positions) const {
  const std::vector<float> f = frequencies(variant);
  const auto half = static_cast<int64_t>(f.size());
  const auto scale = static_cast<float>(attention_factor(config_));
  std::vector<float> cosine(static_cast<size_t>(positions * half)), sine(cosine.size());
  size_t at = 0;
  for (int64_t t = 0; t < positions; ++t) {
    for (const float frequency : f) {
      const float angle = static_cast<float>(t) * frequency;
      cosine[at] = std::cos(angle) * scale;
      sine[at++] = std::sin(angle) * scale;
    }
  }
  const Shape shape = {positions, half};
  return {Tensor::from(cosine, shape, Dtype::f32, device_),
          Tensor::from(sine, shape, Dtype::f32, device_)};
}

RopeTables Rope::tables(int64_t length) const {
  const int64_t variant = variant_of(length);
  const bool is_exact = config_.type == "dynamic" && variant > 0;  // no other length can use it
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.variant == variant; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
    RopeTables& kept = entries_.front().tables;
    if (const int64_t size = kept.cosine.size(0); size < length) {
      outgrown_.push_back(kept);
      kept = make_tables(variant, std::max(length, 2 * size));
    }
    return kept;
  }
  const int64_t positions = is_exact ? length : std::max(length, fewest_positions);
  entries_.push_front({variant, make_tables(variant, positions)});
  if (entries_.size() > kept_variants) {
    // Variant 0 is kept: every sequence within the original context uses it.
    const auto last = std::prev(entries_.end());
    entries_.erase(last->variant == 0 ? std::prev(last) : last);
  }
  return entries_.front().tables;
}

RopeTables Rope::tables(const VarlenRows& varlen) const {
  if (variant_of(varlen.longest()) == 0) {
    const RopeTables all = tables(varlen.longest());
    return {kernels::embedding(varlen.positions(), all.cosine),
            kernels::embedding(varlen.positions(), all.sine)};
  }
  const int64_t half = head_dim_ / 2;
  RopeTables rows{Tensor({varlen.rows(), half}, Dtype::f32, device_),
                  Tensor({varlen.rows(), half}, Dtype::f32, device_)};
  for (size_t g = 0; g < varlen.groups().size(); ++g) {
    const VarlenGroup& group = varlen.groups()[g];
    int64_t longest = 0, count = group.prefix;
    for (const int64_t branch : group.branches) {
      longest = std::max(longest, branch);
      count += branch;
    }
    const int64_t begin = varlen.begins()[g];
    const Tensor at = varlen.positions().slice(begin, begin + count);
    const RopeTables own = tables(group.prefix + longest);
    rows.cosine.slice(begin, begin + count).copy_from(kernels::embedding(at, own.cosine));
    rows.sine.slice(begin, begin + count).copy_from(kernels::embedding(at, own.sine));
  }
  return rows;
}

}  // namespace cbq
