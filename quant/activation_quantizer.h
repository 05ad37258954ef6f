// The quantizer of one linear layer's input.
#pragma once

#include <string>
#include <vector>

#include "nn/linear.h"
#include "quant/activation_kernels.h"
#include "quant/config.h"

namespace cbq {

/// A grid of all inputs.
struct StaticGrid {
  float scale;
  int zero_point;
};

/// per_token, dynamic (x_t: one token's row; alpha: learned clip ratio, alpha = e^a with a starting
/// at 0):
///   asymmetric: lo = alpha min(x_t, 0), hi = alpha max(x_t, 0), s = (hi - lo) / (2^b - 1),
///               z = clamp(round(-lo / s), 0, 2^b - 1), which does not depend on alpha;
///   symmetric:  s by SymmetricForm with alpha max|x_t|, z = 2^(b-1).
/// per_tensor, static: s = s0 e^a with s0, z from observe().
/// per_cluster, static: the same with s0, z of each cluster, a run of neighbouring channels (Yuan
/// et al. 2023, RPTQ); a is common to them. Either way x^ = s (clamp(round(x/s) + z, 0, 2^b - 1) -
/// z). A row of zeros stays zero. Gradients: dx = dx^ inside the clip range, else 0. da by LSQ,
/// with q the clamped code:
///   dx^/ds = (q - z) - x/s inside, (q - z) at the ends; ds/da = s.
/// Two granularities are not offered. One scale per input channel cannot be taken out of the
/// product. A dynamic scale per tensor would make a token depend on the batch and on later tokens.
class ActivationQuantizer : public FusedInput {
 public:
  /// `clusters`: channels of each cluster, in their order; empty: one of all channels. Throws
  /// std::invalid_argument for clusters that the config has no use for.
  ActivationQuantizer(const ActivationConfig& config, Device device, const std::string& layer,
                      std::vector<int64_t> clusters = {});

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
  /// clip [1]; of a static quantizer that has observed, range [2] f32, or where there are clusters
  /// range [clusters, 2] and their sizes, clusters [clusters] f32.
  std::vector<std::pair<std::string, Tensor>> snapshot() const;
  void restore(const std::vector<std::pair<std::string, Tensor>>& values);
  /// s and z of a per_tensor quantizer, in f32. Throws std::invalid_argument for ranges of other
  /// kinds, and before observe().
  StaticGrid static_grid() const;
  const ActivationConfig& config() const { return config_; }
  const std::vector<int64_t>& clusters() const { return clusters_; }

 private:
  bool takes_ranges_per_token() const { return config_.quantizes() && config_.dynamic; }
  void set_clusters(std::vector<int64_t> clusters);
  /// Throws std::invalid_argument unless x has the channels of all clusters.
  void check_width(const Tensor& x) const;
  /// The observed ranges for an x of this kind.
  const ActivationRange& static_range(const Tensor& x) const;

  ActivationConfig config_;
  std::string layer_;
  Var clip_;                        // a, [1] f32
  std::vector<int64_t> clusters_;   // sizes; empty: one cluster
  std::vector<double> low_, high_;  // observed ranges (static), zero included
  bool observed_ = false;
  // The ranges where x lives, made at the first use: a step that is captured may not bring numbers
  // from the host.
  mutable ActivationRange static_range_;
};

}  // namespace cbq
