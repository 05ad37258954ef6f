// Polish: the last stage of a run. Window by window, blocks learned to reproduce the original
// blocks; here the whole model learns to give the original model's predictions, with all integers
// fixed. What moves is what dequantizes them: scales of weights, and clip ratios of activations.
// (EfficientQAT, Chen et al. 2025, trains scales end to end after its block phase, on the labels;
// the target here is the original model's distribution.)
#pragma once

#include <string>
#include <vector>

#include "cbq/activation_cache.h"
#include "cbq/settings.h"
#include "cbq/stream.h"

namespace cbq {

struct PolishReport {
  int64_t trained = 0, held_out = 0;  // segments
  int64_t steps = 0;
  // Mean over the tokens of the held-out segments of KL(original || quantized), in nats.
  double before = 0.0, after = 0.0;
  bool kept = false;  // false: it did not get better, and everything is as it was
  double seconds = 0.0;
  int64_t peak_bytes = 0;  // device memory of this stage
};

/// Minimizes the mean over tokens of
///   KL(softmax(original logits) || softmax(quantized logits))
/// over x and a: W^ = s0 e^x (q - z) with s0, q, z of every frozen weight, one x per scale, and the
/// clip variables a of the activation quantizers (quant/activation_quantizer.h), by Adam over
/// Settings::polish_epochs passes, Settings::batch segments a step, rates rate_polish and
/// rate_activation with cosine annealing. Every eighth segment is held out of this stage (the
/// windows were trained on it) and decides: what did not lower its loss is undone. With fewer than
/// 8 segments the last one is held out; with one it decides and is trained on.
///
/// All blocks of `model` are in memory with frozen quantizers. `original`: the original model's
/// activations, of which the boundary behind the last block is read once. Deterministic in the
/// settings' seed. Throws NonFiniteError where the loss is NaN or infinite before the first step;
/// later that ends training and counts as "not better". `watch` sees every step.
PolishReport polish(Transformer& model, const Segments& segments, ActivationCache& original,
                    const Settings& settings, const Watch& watch);

}  // namespace cbq
