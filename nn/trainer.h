// Training of a language model from scratch: next-token cross-entropy, AdamW, warm-up, constant
// rate, linear decay.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nn/transformer.h"

namespace cbq {

struct TrainSettings {
  int64_t steps = 1000;
  int64_t batch = 16;    // segments per step
  int64_t tokens = 256;  // per segment
  double rate = 3e-3;    // peak learning rate
  double decay_fraction =
      0.25;              // last part of the steps, in which the rate falls linearly to rate / 20
  int64_t warmup = 100;  // steps of linear warm-up
  double weight_decay = 0.1;  // on matrices only
  double beta1 = 0.9, beta2 = 0.95;
  double clip = 1.0;  // bound on the norm of the whole gradient
  uint64_t seed = 0;
  int64_t save_every = 200;  // steps between checkpoints
};

struct TrainHooks {
  std::function<void(int64_t step, double loss, double rate, double tokens_per_second)> progress;
  std::function<bool()> interrupted;
  /// Checkpoint folder: model, optimizer state and step. A run that finds one goes on from there,
  /// and ends in the same bytes as one that was never interrupted. A damaged one is not used.
  std::filesystem::path folder;
  std::function<void(const std::string& line)> say;  // that a checkpoint is damaged
};

/// Learning rate of `step` as a fraction of the peak. The decay starts decay_fraction before the
/// end, so a run can be prolonged from any checkpoint of the constant part (Hu et al. 2024,
/// warm-up-stable-decay).
double rate_factor(const TrainSettings& settings, int64_t step);

/// Trains `model` (f32 parameters) on random segments of `stream`, token ids of the whole text in
/// order: epoch by epoch, every epoch cuts the stream at another offset and visits the pieces in
/// another order. Returns the mean loss of the last 20 steps. Throws NonFiniteError, naming the
/// step, when the loss is no number.
double train(Transformer& model, const std::vector<int32_t>& stream, const TrainSettings& settings,
             const TrainHooks& hooks);

}  // namespace cbq
