#include "quant/solvers/weighted_grid.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "quant/grid_search.h"

namespace cbq {
namespace {

using Candidate = detail::ScoredGrid<double>;

/// The weights that share a scale, with the weight of each.
struct Group {
  const double* w;
  const double* h;
  size_t n;
  const GridRule<double>& rule;

  double code(double w_j, const GridPoint<double>& grid) const {
    return std::clamp(std::nearbyint(w_j / grid.scale) + grid.zero_point, 0.0, rule.largest_code);
  }
  double error(const GridPoint<double>& grid) const {
    const double inverse = 1.0 / grid.scale;
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; ++j) {
      const double q =
          math::clamp(math::round_even(w[j] * inverse) + grid.zero_point, 0.0, rule.largest_code);
      const double d = grid.scale * (q - grid.zero_point) - w[j];
      sum += h[j] * d * d;
    }
    return sum;
  }
  /// The scale that fits the codes best: sum h w (q - z) / sum h (q - z)^2.
  double fitted_scale(const GridPoint<double>& grid) const {
    double product = 0.0, square = 0.0;
    for (size_t j = 0; j < n; ++j) {
      const double q = code(w[j], grid) - grid.zero_point;
      product += h[j] * q * w[j];
      square += h[j] * q * q;
    }
    return product > 0.0 && square > 0.0 ? product / square : grid.scale;
  }
};

Candidate refitted(const Group& group, const Candidate& best) {
  return detail::refitted<double>(
      best, [&](const GridPoint<double>& grid) { return group.fitted_scale(grid); },
      [&](const GridPoint<double>& grid) { return group.error(grid); });
}

GridPoint<double> search(const Group& group, const GridPoint<double>& start) {
  const auto at = [&](const GridPoint<double>& grid) { return Candidate{grid, group.error(grid)}; };
  const GridRule<double>& rule = group.rule;
  const double low = std::min(0.0, *std::min_element(group.w, group.w + group.n));
  const double high = std::max(0.0, *std::max_element(group.w, group.w + group.n));
  Candidate best = at(start);
  const detail::ClipLadder<double> ladder{rule, low, high};
  for (int i = 0; i < ladder.count(); ++i) {
    const Candidate next = at(ladder.candidate(i));
    if (next.error < best.error) best = next;
  }
  best = refitted(group, best);
  if (rule.symmetric) return best.grid;
  for (bool improved = true; improved;) {
    improved = false;
    for (const double step : {-1.0, 1.0}) {
      const double z = best.grid.zero_point + step;
      if (z < 0.0 || z > rule.largest_code) continue;
      const Candidate next = refitted(group, at({best.grid.scale, z}));
      if (!(next.error < best.error)) continue;
      best = next;
      improved = true;
    }
  }
  return best.grid;
}

}  // namespace

WeightGrid weighted_grid(const Tensor& w, const std::vector<double>& h, const WeightConfig& config,
                         const std::string& layer) {
  WeightGrid grid = weight_grid(w, config, layer);
  const auto in = static_cast<size_t>(w.size(1));
  check(h.size() == in, layer, ": ", h.size(), " weights of inputs, expected ", in);
  for (const double h_j : h) {
    check(std::isfinite(h_j) && h_j >= 0.0, layer, ": the weight of an input is ", h_j);
  }
  const std::vector<double> values = w.to_vector<double>();
  std::vector<double> scale = grid.scale.to_vector<double>(),
                      zero_point = grid.zero_point.to_vector<double>();
  const size_t n = values.size() / scale.size();
  std::vector<double> repeated;  // of all rows, where they share one scale
  for (size_t j = 0; n > in && j < values.size(); ++j) repeated.push_back(h[j % in]);
  const GridRule<double> rule(config.bits, config.symmetric, config.form);
  const auto count = static_cast<int64_t>(scale.size());
#pragma omp parallel for schedule(static)
  for (int64_t g = 0; g < count; ++g) {
    const auto i = static_cast<size_t>(g);
    const double* weights = n > in ? repeated.data() : h.data() + i * n % in;
    if (std::all_of(weights, weights + n, [](double h_j) { return h_j == 0.0; })) continue;
    const GridPoint<double> found =
        search({values.data() + i * n, weights, n, rule}, {scale[i], zero_point[i]});
    scale[i] = found.scale;
    zero_point[i] = found.zero_point;
  }
  const auto like = [](const Tensor& t, const std::vector<double>& x) {
    return Tensor::from(x, t.shape(), t.dtype(), t.device());
  };
  grid.scale = stored_scales(like(grid.scale, scale), config.scale_type);
  grid.zero_point = like(grid.zero_point, zero_point);
  return grid;
}

}  // namespace cbq
