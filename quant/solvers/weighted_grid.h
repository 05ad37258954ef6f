// Grids that know how much each input of a layer counts.
#pragma once

#include <string>
#include <vector>

#include "quant/grid.h"

namespace cbq {

/// The grid of every group of `w` [out, in] with the least
///   sum_j h_j (Q(w)_j - w_j)^2,   h_j = sum of x_j^2 over the calibration tokens,
/// the diagonal of the layer's output error (quant/solvers/solver.h): of the grid that
/// config.search gives, a ladder of clip ratios for both ends, and neighbouring zero points, each
/// with its scale refitted to the codes by weighted least squares. Never worse than the first of
/// these in that sum, before the scale is rounded to config.scale_type. Inputs that never occur
/// (h_j = 0) count nothing; a group without any other keeps the grid of config.search. Scale and
/// zero point are on w's device, in the dtypes that weight_grid() gives. Throws as weight_grid()
/// does, and unless `h` has one finite number >= 0 per input.
WeightGrid weighted_grid(const Tensor& w, const std::vector<double>& h, const WeightConfig& config,
                         const std::string& layer);

}  // namespace cbq
