// The quantizer of one linear layer's weight: grid + rounding + what is learned of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "quant/packed.h"
#include "quant/rounding.h"
#include "quant/scale_form.h"

namespace cbq {

struct RoundingConfig {
  std::string scheme = "nearest";
  std::string parameterization = "default";  // default (the scheme's own), none, dense, low_rank
  std::string start = "default";             // default, fraction, nearest, zero
  int64_t rank = 5;
  bool learn_scale = true;
  ScaleForm scale_form = ScaleForm::log;
};

class WeightQuantizer {
 public:
  /// `stream` makes the Gaussian start of A1 ~ N(0, 1/r) unique to the layer. Variables and moments
  /// live on w's device. Throws for impossible settings and for NaN in w, naming `layer`.
  WeightQuantizer(const Tensor& w, const WeightConfig& weight, const RoundingConfig& rounding,
                  const std::string& layer, uint64_t seed, uint64_t stream);

  /// Goes on from a solver's result (quant/solvers/solver.h): what is rounded from now on is
  /// `weight` [out, in], like w, and no longer what fake_quant() and harden() are given; scales
  /// start at `grid`. The layer's own weight stays what it was, for the targets of reconstruction.
  /// Throws std::invalid_argument for other shapes or bits, and after harden().
  void start_from(const Tensor& weight, const WeightGrid& grid);
  bool started_from_solution() const { return solution_.defined(); }
  /// What start_from() was given, to resume: name -> tensor; empty without a solution and after
  /// harden(). restore() takes it back, together with a snapshot.
  std::vector<std::pair<std::string, Tensor>> solution() const;

  /// W^ for the current variables; differentiable in them, not in w.
  Var fake_quant(const Var& w) const;

  /// Learned variables; empty after harden(). The scale's and the rounding's, for their own rates.
  /// Rounding variables are in units of the scale: schemes that move the weight itself ("direct")
  /// multiply them by the scale at the start, group by group.
  std::vector<Var> scale_variables() const;
  std::vector<Var> rounding_variables() const;

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
  /// Current scale [out, groups].
  Tensor scale() const;
  const WeightConfig& config() const { return config_; }

 private:
  /// What is rounded, where the layer's weight is w.
  const Tensor& rounded(const Tensor& w) const { return solution_.defined() ? solution_ : w; }
  RoundingPass pass(const Tensor& w) const;
  void freeze(PackedWeight packed);
  std::vector<std::pair<std::string, Var>> named_variables() const;

  WeightConfig config_;
  RoundingConfig rounding_;
  std::string layer_;
  Dtype dtype_;  // of w and W^
  int64_t out_, in_;
  std::shared_ptr<RoundingScheme> scheme_;
  WeightGrid grid_;
  Tensor solution_;     // of a solver, or undefined
  Var scale_variable_;  // x of ScaleForm
  Var dense_, a1_, a2_;
  Start start_ = Start::fraction;
  bool hard_ = false;
  RoundingRegularizer regularizer_;
  std::optional<PackedWeight> packed_;
  Tensor dequantized_;
};

}  // namespace cbq
