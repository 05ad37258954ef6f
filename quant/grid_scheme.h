// Grid schemes: how the scale and the zero point of a weight follow from what is learned of them.
//
// One file in quant/grids/ defines a class and registers it; the command-line name (--grid), the
// table row (run_ablation --axis grid) and the contract test (tests/test_grids.cpp) follow.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quant/grid.h"
#include "quant/registry.h"

namespace cbq {

/// Scale and zero point of every group of a weight, or the gradients of a loss with respect to
/// both: [out, groups], f32 (f64 for an f64 weight). Zero points hold integers in [0, 2^b - 1].
struct GridValues {
  Tensor scale;
  Tensor zero_point;
};

/// One object serves one weight. start() gets the weight; all other functions get the variables.
class GridScheme {
 public:
  virtual ~GridScheme() = default;
  virtual std::string name() const = 0;
  /// One sentence for --help.
  virtual std::string help() const = 0;
  /// Which learning rate the variables take: rate() "scale" reads the setting rate_scale.
  virtual std::string rate() const { return "scale"; }
  /// True if the zero point depends on the variables.
  virtual bool moves_zero_point() const { return false; }
  /// True if it learns to leave outliers of the weight outside the range, in tables that compare
  /// methods.
  virtual bool handles_weight_outliers() const { return false; }

  /// Takes the start: `grid` for the weight `w` [out, in] under `config`. With config.search
  /// min_max this grid spans the range of w; else a search or a solver found it. Returns names and
  /// start values of the variables, each like grid.scale, in the order in which values() and
  /// gradients() take them. May be called again, for another weight of the same shape.
  virtual std::vector<std::pair<std::string, Tensor>> start(const Tensor& w, const WeightGrid& grid,
                                                            const WeightConfig& config) = 0;
  /// The grid at these variables; every scale is positive. Launches kernels and nothing else, so
  /// that a training step can be captured.
  virtual GridValues values(const std::vector<Tensor>& variables) const = 0;
  /// dL/dx of every variable, where `now` is what values() returned and `d` holds dL/dscale and
  /// dL/dzero_point. The latter is defined where moves_zero_point(); rounding to integers passes it
  /// straight through.
  virtual std::vector<Tensor> gradients(const std::vector<Tensor>& variables, const GridValues& now,
                                        const GridValues& d) const = 0;

  /// True if the grid can be that of a weight which is learned itself: its range moves with the
  /// weight. Only then may the two functions below be called.
  virtual bool follows_weight() const { return false; }
  /// From now on values() and gradients() are those for the weight `w`, shaped like that of
  /// start(). Launches kernels and nothing else.
  virtual void follow(const Tensor& w);
  /// Adds to `dw` what flows back to the weight through its range, where `d` holds dL/dscale and
  /// dL/dzero_point at these variables.
  virtual void add_weight_gradient(const Tensor& w, const std::vector<Tensor>& variables,
                                   const GridValues& d, const Tensor& dw) const;
};

Registry<GridScheme>& grid_schemes();

/// The zero point moved by a learned x [out, groups], in codes:
///   z' = clamp(round(z + x), 0, 2^b - 1).
Tensor moved_zero_point(const Tensor& zero_point, const Tensor& x, int bits);
/// dL/dx for dL/dz' = d. The rounding passes the gradient unchanged. It is 0 where z + x lies
/// beyond an end of the clamp and a step of descent would lead further out.
Tensor moved_zero_point_gradient(const Tensor& zero_point, const Tensor& x, int bits,
                                 const Tensor& d);

}  // namespace cbq
