// Solvers: integer codes of one linear layer from its weight and the Hessian of its inputs, in one
// pass and without gradients.
//
// The layer's output error on its inputs X [tokens, in] is
//   ||X W^T - X W^^T||^2 = tr((W - W^) H (W - W^)^T),   H = X^T X  [in, in],
// so H is all that a solver must know of the calibration data (Frantar et al. 2023). A solver moves
// the weights that are not rounded yet so that they make up for the error of those that are. Its
// result is the weight *before* rounding: rounding that weight to nearest gives the solution, and
// any other rounding scheme can start from it.
//
// A solver may also ask for the inputs X~ [tokens, in] that the layer has in the original model,
// and aim at its output there (Li et al. 2025). With the difference E = X~ - X that error is
//   ||X~ W^T - X W^^T||^2 = tr(V H V^T) + 2 tr(W D V^T) + tr(W G W^T),
//   V = W - W^,   D = E^T X,   G = E^T E  [in, in].
//
// A solver is written "name" or "name:arguments" ("gptq:damping=0.05,act_order"). One file each in
// this folder.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quant/grid.h"
#include "quant/registry.h"

namespace cbq {

/// How a layer's inputs in the original model, X~, differ from X; both f64 [in, in] on the host
/// (InputDifference).
struct OriginalInputs {
  Tensor cross;  // D = (X~ - X)^T X
  Tensor gram;   // G = (X~ - X)^T (X~ - X)
};

struct LayerProblem {
  std::string layer;    // checkpoint path, for messages
  Tensor weight;        // W [out, in]: f32, bf16 or f64
  Tensor hessian;       // H = X^T X, f64 [in, in] on the host (InputGram)
  WeightConfig config;  // the grid
  /// Given to solvers that want it.
  std::optional<OriginalInputs> original = {};
};

struct LayerSolution {
  /// The compensated weight, in the dtype and on the device of W: round(weight / s) + z, clamped,
  /// are the codes.
  Tensor weight;
  WeightGrid grid;
  /// layer_error() of the solution, and of rounding W to the nearest codes of the grid that W
  /// itself asks for.
  double error = 0.0, nearest_error = 0.0;
  std::vector<std::string> notes;  // what a reader of the result must know: a raised damping, ...
};

class LayerSolver {
 public:
  virtual ~LayerSolver() = default;
  /// As registered.
  virtual std::string name() const = 0;
  /// One sentence for --help, with the arguments it takes.
  virtual std::string help() const = 0;
  /// What stands behind the ':'. Throws std::invalid_argument for what it does not understand; by
  /// default for everything but "".
  virtual void configure(const std::string& arguments);
  /// All that decides the result, defaults included, as configure() reads it and in a fixed order:
  /// two solvers of one name with equal arguments are the same solver.
  virtual std::string arguments() const { return ""; }
  /// True: LayerProblem::original must be there. It costs a second pass over the calibration data.
  virtual bool wants_original_inputs() const { return false; }
  /// Throws std::invalid_argument, naming the layer, for shapes that do not fit, a grid that the
  /// solver has no rule for, and NaN or infinity in W or H.
  virtual LayerSolution solve(const LayerProblem& problem) const = 0;
};

Registry<LayerSolver>& solvers();

/// The solver of "name:arguments", configured. Throws std::invalid_argument as above, with the
/// known names.
std::unique_ptr<LayerSolver> parse_solver(const std::string& text);
/// `text` with all arguments written out ("gptq" -> "gptq:damping=0.01,block=128"), for comparing.
/// A name that is not registered stays as it is. Throws as parse_solver does for the arguments.
std::string canonical_solver(const std::string& text);

/// Throws std::invalid_argument, naming the layer, where weight, Hessian and grid do not fit, or
/// hold NaN or infinity.
void check_problem(const LayerProblem& problem);

/// s (clamp(round(w / s) + z, 0, 2^b - 1) - z): `w` [out, in] rounded to nearest on `grid`.
Tensor nearest(const Tensor& w, const WeightGrid& grid);

/// tr((W - W^) H (W - W^)^T) >= 0. `a` and `b` [out, in], `hessian` f64 [in, in] on the host.
double output_error(const Tensor& a, const Tensor& b, const Tensor& hessian);

/// The error of the layer's output with the weight `quantized` [out, in]: ||X W^T - X W^^T||^2, or
/// ||X~ W^T - X W^^T||^2 where the problem has the original inputs.
double layer_error(const LayerProblem& problem, const Tensor& quantized);

/// H = X^T X, added up batch by batch.
class InputGram {
 public:
  explicit InputGram(int64_t in);
  /// x [tokens, in], any floating-point dtype and device. X^T X of one batch is computed in f32
  /// (f64 for an f64 x); batches are added up in f64, so the error does not grow with their number.
  void add(const Tensor& x);
  const Tensor& value() const { return sum_; }
  int64_t tokens() const { return tokens_; }

 private:
  Tensor sum_;
  int64_t tokens_ = 0;
};

/// D and G of OriginalInputs, added up batch by batch, in the dtypes of InputGram.
class InputDifference {
 public:
  explicit InputDifference(int64_t in);
  /// The same tokens in the original and in the quantized model, both [tokens, in].
  void add(const Tensor& original, const Tensor& x);
  const OriginalInputs& value() const { return sums_; }

 private:
  OriginalInputs sums_;
};

}  // namespace cbq
