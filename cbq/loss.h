// The reconstruction error between quantized and original blocks.
#pragma once

#include <vector>

#include "cbq/settings.h"
#include "kernels/ops.h"
#include "tensor/tensor.h"

namespace cbq {

/// Weights of E(h, h^) = l2_weight ||h - h^||^2 (or another form of it) + kl_weight KL(softmax(h)
/// || softmax(h^)) per token.
struct LossConfig {
  double l2_weight = 1.0;
  kernels::L2Form l2 = kernels::L2Form::sum;
  double kl_weight = 1.0;
};

/// Settings::l2: sum over the hidden dimension n; mean divides by n; norm is the root of the sum;
/// relative is n ||h - h^||^2 / ||h||^2, in which the few tokens whose activations are hundreds of
/// times as large as those of all others (massive activations, Sun et al. 2024) weigh no more than
/// the others.
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
