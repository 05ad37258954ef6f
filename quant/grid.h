// The uniform grid: Q(w) = s (clamp(r(w/s) + z, 0, 2^b - 1) - z), and where s and z come from.
#pragma once

#include "quant/config.h"
#include "tensor/tensor.h"

namespace cbq {

/// Largest code of b bits.
constexpr int max_code(int bits) { return (1 << bits) - 1; }

/// Scale and zero point of every group of a weight [out, in].
/// Both [out, groups] f32 (f64 for an f64 weight; per_tensor: [1, 1]); the zero point holds
/// integers in [0, 2^b - 1]. A group of zeros gets scale 1, so that nothing divides by zero.
struct WeightGrid {
  Tensor scale;
  Tensor zero_point;
  int bits = 4;
  int64_t group = 0;  // inputs that share a scale: in (per channel, per tensor) or the group size
};

/// Start of the grid for `w` by config.search:
///   asymmetric: s = (max(W,0) - min(W,0)) / (2^b - 1), z = clamp(round(-min/s), 0, 2^b - 1).
///   symmetric: see SymmetricForm, z = 2^(b-1).
/// squared_error tries a ladder of clip ratios (for both ends independently if the grid is
/// asymmetric), takes the best, and refits the scale to the codes. Its ||Q(W) - W||^2 is never
/// above that of min_max. At last the scale is rounded to config.scale_type (stored_scales). Throws
/// std::invalid_argument, naming `layer`, for impossible settings and when w holds NaN or infinity.
WeightGrid weight_grid(const Tensor& w, const WeightConfig& config, const std::string& layer);

/// Scales as a type stores them: the nearest of its numbers, ties to the even one. What is below
/// its smallest positive number becomes that number, what is above its largest one that. f32
/// changes nothing; gradients are meant to pass the rounding straight through.
Tensor stored_scales(const Tensor& scale, ScaleType type);

}  // namespace cbq
