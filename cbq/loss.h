// The reconstruction error between quantized and original blocks.
#pragma once

#include <vector>

#include "cbq/settings.h"
#include "tensor/tensor.h"

namespace cbq {

/// Weights of E(h, h^) = l2_weight ||h - h^||^2 + kl_weight KL(softmax(h) || softmax(h^)) per
/// token.
struct LossConfig {
  double l2_weight = 1.0;
  bool l2_norm = false;  // ||h - h^|| instead of its square
  double kl_weight = 1.0;
};

/// `l2`: sum over the hidden dimension; mean divides by it; norm is the root of the sum.
LossConfig loss_config(const Settings& settings, int64_t hidden);

struct LossValue {
  Tensor mean;      // [1], on the device: reading it would wait for the device
  Tensor gradient;  // d mean / d prediction, if wanted
};

/// (1 / (|targets| tokens)) sum_targets sum_tokens E(target, prediction); prediction [tokens,
/// hidden]. Two targets make the homologous error: the original blocks' output for the original
/// stream, and for the quantized stream. The gradient seeds Tape::backward directly, so that no
/// step of the loss is recorded.
LossValue reconstruction_loss(const Tensor& prediction, const std::vector<Tensor>& targets,
                              const LossConfig& config, bool want_gradient);

}  // namespace cbq
