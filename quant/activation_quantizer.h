// The quantizer of one linear layer's input.
#pragma once

#include <string>
#include <vector>

#include "nn/linear.h"
#include "quant/config.h"

namespace cbq {

/// per_token, dynamic (x_t: one token's row; alpha: learned clip ratio, alpha = e^a with a starting
/// at 0):
///   asymmetric: lo = alpha min(x_t, 0), hi = alpha max(x_t, 0), s = (hi - lo) / (2^b - 1),
///               z = clamp(round(-lo / s), 0, 2^b - 1), which does not depend on alpha;
///   symmetric:  s by SymmetricForm with alpha max|x_t|, z = 2^(b-1).
/// per_tensor, static: s = s0 e^a with s0, z from observe().
/// Either way x^ = s (clamp(round(x/s) + z, 0, 2^b - 1) - z). A row of zeros stays zero.
/// Gradients: dx = dx^ inside the clip range, else 0. da by LSQ, with q the clamped code:
///   dx^/ds = (q - z) - x/s inside, (q - z) at the ends; ds/da = s.
/// Two granularities are not offered. One scale per input channel cannot be taken out of the
/// product. A dynamic scale per tensor would make a token depend on the batch and on later tokens.
class ActivationQuantizer : public FusedInput {
 public:
  ActivationQuantizer(const ActivationConfig& config, Device device, const std::string& layer);

  /// Static quantizers collect the range of x (calibration); no-op for dynamic ones.
  void observe(const Tensor& x);
  /// x [tokens, in] -> x^, differentiable in x and in the clip variable.
  Var fake_quant(const Var& x) const;
  /// fake_quant(y) of several quantizers, in one pass with the function that makes y
  /// (quantize_tokens). This needs ranges per token, and no gradient of a norm's weight. Otherwise,
  /// and with CBQ_FAST=0 (kernels/launch/tuned_switch.h), the result is empty.
  std::vector<Var> inputs(const Deferred& y,
                          const std::vector<const FusedInput*>& readers) const override;

  /// The learned variable a [1], or none if the config does not quantize.
  std::vector<Var> variables() const;
  std::vector<std::pair<std::string, Tensor>> snapshot() const;
  void restore(const std::vector<std::pair<std::string, Tensor>>& values);
  const ActivationConfig& config() const { return config_; }

 private:
  bool takes_ranges_per_token() const { return config_.quantizes() && config_.dynamic; }

  ActivationConfig config_;
  std::string layer_;
  Var clip_;                       // a, [1] f32
  double low_ = 0.0, high_ = 0.0;  // observed range (static), zero included
  bool observed_ = false;
  // low_ and high_ where x lives, made at the first use: a step that is captured may not bring
  // numbers from the host.
  mutable Tensor static_low_, static_high_;
};

}  // namespace cbq
