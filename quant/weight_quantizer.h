// The quantizer of one linear layer's weight: grid + rounding + what is learned of them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "quant/bit_packed.h"
#include "quant/grid_scheme.h"
#include "quant/rounding.h"

namespace cbq {

struct RoundingConfig {
  std::string scheme = "nearest";
  std::optional<Parameterization> parameterization;  // without: the scheme's own
  std::optional<Start> start;                        // likewise
  int64_t rank = 5;
  std::string grid = "log";       // what of the grid is learned: a name of grid_schemes()
  bool learn_zero_point = false;  // an offset of the zero point, too
};

/// Variables that share a learning rate: `rate` "scale" reads the setting rate_scale.
struct LearnedGroup {
  std::string rate;
  std::vector<Var> variables;
  bool is_rounding = false;  // they say how the weight is rounded
};

class WeightQuantizer {
 public:
  /// `stream` makes the Gaussian start of A1 ~ N(0, 1/r) unique to the layer. Variables and moments
  /// live on w's device. Throws for impossible settings and for NaN in w, naming `layer`.
  WeightQuantizer(const Tensor& w, const WeightConfig& weight, const RoundingConfig& rounding,
                  const std::string& layer, uint64_t seed, uint64_t stream);
  /// A weight that is hardened already. `dequantized` [out, in]: dequantize(packed), which the
  /// quantizer shares with whoever gives it, so that it lies in memory once.
  WeightQuantizer(PackedWeight packed, Tensor dequantized, const WeightConfig& weight,
                  const std::string& layer);

  /// Goes on from a solver's result (quant/solvers/solver.h). From now on `weight` [out, in], like
  /// w, is rounded in place of the weight that fake_quant() and harden() are given; scales start at
  /// `grid`. The layer's own weight does not change: targets of reconstruction come from it.
  /// Throws std::invalid_argument for other shapes or bits, and after harden().
  void start_from(const Tensor& weight, const WeightGrid& grid);
  bool started_from_solution() const { return solution_.defined(); }
  /// What start_from() was given, to resume: name -> tensor; empty without a solution and after
  /// harden(). restore() takes it back, together with a snapshot.
  std::vector<std::pair<std::string, Tensor>> solution() const;

  /// From now on fake_quant() and harden() may be given another weight each time: the grid follows
  /// it, and fake_quant() is differentiable in w. Throws std::invalid_argument where grid or
  /// rounding scheme cannot do that, naming what can.
  void follow_weight();

  /// W^ for the current variables; differentiable in them, and in w after follow_weight().
  Var fake_quant(const Var& w) const;

  /// Everything that is learned; empty after harden(). Groups: the grid's (GridScheme::rate),
  /// "zero_point", "rounding". Rounding variables are in units of the scale: schemes that move the
  /// weight itself ("direct") multiply them by the scale at the start, group by group.
  std::vector<LearnedGroup> groups() const;
  /// The variables of one group, or none.
  std::vector<Var> variables(const std::string& rate) const;

  /// Hard forward with straight-through gradients from now on (the late phase).
  void set_hard(bool hard) { hard_ = hard; }
  void set_regularizer(const RoundingRegularizer& r) { regularizer_ = r; }
  /// The regularizer's value for this layer's w (host).
  double regularizer_value(const Tensor& w) const;

  /// Freezes: integer codes from the hard rounding of `w`; fake_quant then returns s (q - z) as a
  /// constant.
  void harden(const Tensor& w);
  bool hardened() const { return packed_.has_value(); }
  /// Throws unless hardened.
  const PackedWeight& packed() const;

  /// Values of all variables, to keep the best and to resume: name -> tensor (copies). After
  /// harden(): the packed weight, and restoring that hardens this quantizer too.
  std::vector<std::pair<std::string, Tensor>> snapshot() const;
  void restore(const std::vector<std::pair<std::string, Tensor>>& values);

  const WeightGrid& start_grid() const { return grid_; }
  /// Current scale and zero point [out, groups].
  GridValues grid() const;
  const WeightConfig& config() const { return config_; }

 private:
  /// What is rounded, where the layer's weight is w.
  const Tensor& rounded(const Tensor& w) const { return solution_.defined() ? solution_ : w; }
  /// The pass over what is rounded where the layer's weight is w; `grid`: grid_before_offset().
  RoundingPass pass(const Tensor& w, const GridValues& grid) const;
  RoundingPass pass(const Tensor& w) const { return pass(w, grid_before_offset()); }
  /// The grid scheme's values, to which the learned offset of the zero point is not added yet.
  GridValues grid_before_offset() const;
  Tensor zero_point_of(const GridValues& grid) const;
  /// Gives the grid scheme its start (GridScheme::start), and its variables their start values.
  void start_grid_scheme(const Tensor& rounded, const WeightConfig& config);
  /// Where dequantized_ is there already, its values change: it may be shared.
  void freeze(PackedWeight packed);
  std::vector<std::pair<std::string, Var>> named_variables() const;

  WeightConfig config_;
  RoundingConfig rounding_;
  std::string layer_;
  Dtype dtype_;  // of w and W^
  int64_t out_, in_;
  std::shared_ptr<RoundingScheme> scheme_;
  WeightGrid grid_;
  Tensor solution_;  // of a solver, or undefined
  std::shared_ptr<GridScheme> grid_scheme_;
  std::vector<std::pair<std::string, Var>> grid_variables_;
  Var zero_point_variable_;  // x of moved_zero_point(), or undefined
  Var dense_, a1_, a2_;
  Start start_ = Start::fraction;
  bool hard_ = false;
  bool follows_ = false;  // the weight is learned itself
  RoundingRegularizer regularizer_;
  std::optional<PackedWeight> packed_;
  Tensor dequantized_;
};

}  // namespace cbq
