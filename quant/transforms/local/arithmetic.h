// Arithmetic that pre-processing needs and nothing else does. Every function gives a new tensor, on
// the device of its argument, and computes in f64 where factors are involved: it runs once per
// model, and each rounding saved is one less difference between a model and its equivalent.
#pragma once

#include <vector>

#include "quant/config.h"
#include "tensor/tensor.h"

namespace cbq {

/// y[r, ...] = x[r, ...] / s_r: rows of a weight, elements of a bias or a norm's weight.
Tensor divide_rows(const Tensor& x, const std::vector<double>& s);
/// y[r, c] = x[r, c] * s_c, x [rows, n].
Tensor multiply_columns(const Tensor& x, const std::vector<double>& s);

/// In place: what is nearer to 0 than `least` > 0 moves to that distance; 0 itself moves up. f32 or
/// f64.
void keep_from_zero(const Tensor& s, double least);

/// The ends of a range per group of consecutive elements, both [groups]; f32, f64 for an f64
/// tensor.
struct ClipRange {
  Tensor low, high;
};
/// y = min(max(x, low), high); x.count() must be a multiple of the groups.
Tensor clamp_groups(const Tensor& x, const ClipRange& range);
/// Elements of x outside its range.
int64_t count_outside(const Tensor& x, const ClipRange& range);
/// The ranges low[g] to high[g] of the groups g, in the dtype that fits x.
ClipRange uniform_range(const Tensor& x, const std::vector<double>& low,
                        const std::vector<double>& high);

/// Per group of the grid of `config`, the range [a min(W,0), b max(W,0)] with the least
/// ||Q(clamp(W)) - W||^2, Q the min/max grid of the clamped weight with nearest rounding
/// (Choukroun et al. 2019, by search). a, b from 1 to 0.25 in steps of 0.05, independently;
/// symmetric: a = b from 1 to 0.2 in steps of 0.01.
ClipRange least_error_range(const Tensor& w, const WeightConfig& config);

/// low_c = min(low_c, min_r x_rc), high_c likewise, in place: x [rows, n]; low, high f64 [n].
void widen_column_range(const Tensor& x, const Tensor& low, const Tensor& high);
/// sum_c += sum_r |x_rc|, in place and in f64, row by row: x [rows, n]; sum f64 [n].
void add_column_magnitudes(const Tensor& x, const Tensor& sum);

}  // namespace cbq
