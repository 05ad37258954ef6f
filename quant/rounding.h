// Rounding schemes: how w/s becomes an integer, and what of it is learned.
//
// A scheme is scalar math of (u, v): u = w/s, v the rounding variable of this weight. Where v comes
// from is the parameterization's business: v = v0(u) + p with p dense [out, in] or low rank A1 A2.
// One file in quant/rounding/ defines a struct of scalar functions and registers it; kernels for
// both devices, both parameterizations, the command-line name, the table row and the contract test
// follow (docs/add-a-rounding-scheme.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quant/grid.h"
#include "quant/registry.h"

namespace cbq {

enum class Parameterization { none, dense, low_rank };
/// Where v starts: fraction: the relaxed weight equals the original one; nearest: it equals
/// round-to-nearest; zero: v0 = 0.
enum class Start { fraction, nearest, zero };

std::string name_of(Parameterization parameterization);
std::string name_of(Start start);
Parameterization parameterization_from_name(const std::string& name);
Start start_from_name(const std::string& name);
/// All of them.
std::vector<std::string> parameterization_names();
std::vector<std::string> start_names();

/// One pass over a weight: everything its kernels read.
struct RoundingPass {
  Tensor w;           // [out, in] f32, bf16 or f64; all else f32 (f64 for an f64 w)
  Tensor scale;       // [out, groups], current
  Tensor zero_point;  // [out, groups]
  int bits = 4;
  int64_t group = 0;  // inputs per scale; scale is [1, 1] for per_tensor
  Tensor dense;       // p [out, in], or undefined
  Tensor a1, a2;      // p = A1 A2: [out, r], [r, in], or undefined
  Tensor unit = {};   // like scale: what p = 1 moves the weight by, for v_in_weight_units
  Start start = Start::fraction;
  bool hard = false;              // integers forward, the relaxed derivative backward
  bool wants_zero_point = false;  // backward gives dL/dz, too
};

/// beta of sum(1 - |2h - 1|^beta); weight 0: none. The weight multiplies the plain sum.
struct RoundingRegularizer {
  double weight = 0.0;
  double beta = 2.0;
  /// If defined, f64 {weight, beta} on the weight's device: kernels read them there when they run,
  /// so that a captured step follows a schedule.
  Tensor now;
};

struct RoundingGradients {
  Tensor scale;            // like pass.scale
  Tensor dense;            // like pass.dense, or undefined
  Tensor a1, a2;           // like pass.a1, a2, or undefined
  Tensor zero_point = {};  // like pass.scale, where pass.wants_zero_point; else undefined
};

/// The scalar functions of a scheme in f64, for oracles, plots and explanations.
struct RoundingMath {
  double (*initial)(double u, Start start);  // v0
  double (*soft)(double u, double v);        // relaxed r; == hard if the scheme does not relax
  double (*hard)(double u, double v);        // integer r
  double (*d_dv)(double u, double v);        // the dr/dv that backward uses
  double (*d_du)(double u, double v);        // the dr/du that backward uses
  double (*relaxed)(double v);               // h of the regularizer; 0.5 if there is none
  double (*d_relaxed)(double v);             // dh/dv
  double v_min, v_max;                       // forward clamps v to them
  bool straight_through_v;                   // d_dv is not the derivative of soft
  bool v_in_weight_units;                    // p is an offset of w: v = v0 + p unit / s
};

class RoundingScheme {
 public:
  virtual ~RoundingScheme() = default;
  virtual std::string name() const = 0;
  /// One sentence for --help.
  virtual std::string help() const = 0;
  virtual Parameterization default_parameterization() const = 0;
  virtual Start default_start() const = 0;
  /// True if relaxed and hard rounding differ. Only then do a hard phase and the regularizer have
  /// an effect.
  virtual bool relaxes() const = 0;
  /// Starts the scheme can have; "fraction" needs a relaxed weight.
  virtual bool supports(Start start) const { return start != Start::fraction || relaxes(); }
  /// Learning rate of p with Adam, where the user gives none; `abits`: bits of the activations.
  /// Since p is in units of the scale, whichever the scheme, this fits weights of any size.
  virtual double default_rate([[maybe_unused]] int abits) const { return 0.01; }
  /// False if backward() cannot give dL/dz; a grid that moves its zero point is then refused.
  virtual bool gives_zero_point_gradient() const { return false; }
  /// nullptr for schemes that are not scalar math (they couple the weights of a row).
  virtual const RoundingMath* math() const { return nullptr; }

  /// W^ = s (clamp(r + z, 0, 2^b - 1) - z), [out, in] in w's dtype.
  virtual Tensor forward(const RoundingPass& pass) const = 0;
  /// Gradients for the output gradient dw [out, in]; with u inside the clip range
  ///   dL/dv = dW^ s dr/dv,  dL/ds = dW^ ((q - z) - u dr/du)   (LSQ, Esser et al. 2020),
  /// at the clip ends dL/dv = 0, dL/ds = dW^ (q - z). dL/dz = -dW^ s at the clip ends; inside it is
  /// 0, because z is added and subtracted again there. Adds the regularizer's gradient.
  /// Low rank: no [out, in] temporaries; deterministic.
  virtual RoundingGradients backward(const RoundingPass& pass, const Tensor& dw,
                                     const RoundingRegularizer& regularizer) const = 0;
  /// dL/dw for a weight that is learned itself, scale and zero point held fixed, straight through
  /// the rounding: dW^ dr/du inside the clip range, 0 outside. [out, in] in w's dtype. Throws
  /// std::logic_error unless gives_weight_gradient().
  virtual Tensor weight_gradient(const RoundingPass& pass, const Tensor& dw) const;
  virtual bool gives_weight_gradient() const { return false; }
  /// weight * sum(1 - |2h - 1|^beta) on the host; 0 for schemes without it.
  virtual double regularizer(const RoundingPass& pass, const RoundingRegularizer& r) const = 0;
  /// Integer codes of the hard rounding: u8 [out, in].
  virtual Tensor codes(const RoundingPass& pass) const = 0;
};

Registry<RoundingScheme>& rounding_schemes();

}  // namespace cbq
