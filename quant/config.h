// What a quantizer is told: bits, symmetry, granularity.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace cbq {

/// Bits at or above this mean "leave in floating point".
constexpr int float_bits = 16;

/// per_cluster: of activations; runs of channels with similar ranges, which pre-processing makes
/// neighbours (quant/transforms/local/reorder.cpp).
enum class Granularity { per_tensor, per_channel, per_group, per_token, per_cluster };
/// Symmetric grids of b bits (zero point 2^(b-1)):
///   full_range: s = 2 max|x| / (2^b - 1): every code is used.
///   restricted: s = max|x| / (2^(b-1) - 1): max|x| is a grid point; impossible at 1 bit.
enum class SymmetricForm { full_range, restricted };
/// How the scale of a weight starts.
///   min_max: the range of the values, 0 included.
///   squared_error: of a ladder of clip ratios, the one with the least ||Q(W) - W||^2.
enum class ScaleSearch { min_max, squared_error };
/// In which type the scales of a weight are stored. Numbers of p significant bits:
///   f32 (p = 24), bf16 (p = 8), f16 (p = 11),
///   e5m6: f16 with p = 7. The product of a scale and a zero point of 4 bits is then an f16, too.
enum class ScaleType { f32, bf16, f16, e5m6 };

struct WeightConfig {
  int bits = 4;
  bool symmetric = false;
  SymmetricForm form = SymmetricForm::full_range;
  Granularity granularity = Granularity::per_channel;
  int64_t group_size = 0;  // inputs per group, with per_group
  ScaleSearch search = ScaleSearch::squared_error;
  ScaleType scale_type = ScaleType::f32;
  bool quantizes() const { return bits < float_bits; }
};

struct ActivationConfig {
  int bits = float_bits;
  bool symmetric = false;
  SymmetricForm form = SymmetricForm::restricted;
  Granularity granularity = Granularity::per_token;
  // true: ranges of the token at hand (per_token); false: from calibration (per_tensor,
  // per_cluster)
  bool dynamic = true;
  bool quantizes() const { return bits < float_bits; }
};

/// Names as they stand on the command line; from_name throws with the known names.
std::string name_of(Granularity granularity);
std::string name_of(SymmetricForm form);
std::string name_of(ScaleSearch search);
std::string name_of(ScaleType type);
Granularity granularity_from_name(const std::string& name);
SymmetricForm symmetric_form_from_name(const std::string& name);
ScaleSearch scale_search_from_name(const std::string& name);
ScaleType scale_type_from_name(const std::string& name);
/// All of them.
std::vector<std::string> symmetric_form_names();
std::vector<std::string> scale_search_names();
std::vector<std::string> scale_type_names();

/// Throws std::invalid_argument for settings that cannot be (bits < 1, restricted at 1 bit, a group
/// size that does not divide `in_features`: it names the layer and the sizes that would).
void check_weight_config(const WeightConfig& config, const std::string& layer, int64_t in_features);
/// The same for a layer's input (granularities that cannot be folded out of the product, a static
/// scale per token, a dynamic one per tensor).
void check_activation_config(const ActivationConfig& config, const std::string& layer);

}  // namespace cbq
