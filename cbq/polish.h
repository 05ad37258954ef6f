// Polish: the last stage of a run. Window by window, blocks learned to reproduce the original
// blocks; here the whole model learns to give the original model's predictions. What moves is what
// dequantizes the integers: scales of weights, and clip ratios of activations; where they are asked
// for, the integers themselves, and the parameters of norms.
// (EfficientQAT, Chen et al. 2025, trains scales end to end after its block phase, on the labels;
// the target here is the original model's distribution.)
#pragma once

#include <functional>
#include <map>
#include <optional>
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

/// What an interrupted stage needs to go on: its state after `steps` steps.
struct PolishState {
  int64_t steps = 0;
  double before = 0.0;                    // PolishReport::before
  double seconds = 0.0;                   // that the stage has taken so far
  std::map<std::string, Tensor> tensors;  // what is learned, and Adam's moments
};

struct PolishHooks {
  /// Goes on from here; the result is that of a stage without interruption, to the bit.
  std::optional<PolishState> start;
  /// Gets the state after every pass but the last, and every ten minutes; may be empty.
  std::function<void(const PolishState&)> save;
};

/// Minimizes the mean over tokens of
///   KL(softmax(original logits) || softmax(quantized logits))
/// over Settings::polish_epochs passes, Settings::batch segments a step, with cosine annealing, by
/// Adam (u: by the sign of its gradient) over
///   x   scales: W^ = s0 e^x (q - z) with s0, q, z of every frozen weight, one x per scale; rate
///       rate_polish;
///   a   the clip variables of the activation quantizers (quant/activation_quantizer.h); rate
///       rate_activation;
///   u   codes: q = clamp(round(u), 0, 2^b - 1), u starts at q and moves by rate_polish_codes a
///       step, u <- u - rate sign(dL/du), where gradients pass the rounding straight through
///       (quant/learned_codes.h); rate 0: q stays. Takes 8 bytes per weight of a block: u and its
///       gradient;
///   g   weights and biases of all norms; rate rate_polish_norm in units of the root mean square of
///       the norm's weight, 0: they stay. The model must be in f32 for it.
/// Every eighth segment is held out of this stage (the windows were trained on it) and decides:
/// what did not lower its loss is undone. With fewer than 8 segments the last one is held out; with
/// one it decides and is trained on.
///
/// All blocks of `model` are in memory, with frozen quantizers or as load_quantized() gives them.
/// `original`: the original model's activations, of which the boundary behind the last block is
/// read once. Deterministic in the settings' seed. Throws NonFiniteError where the loss is NaN or
/// infinite before the first step; later that ends training and counts as "not better". `watch`
/// sees every step.
PolishReport polish(Transformer& model, const Segments& segments, ActivationCache& original,
                    const Settings& settings, const Watch& watch, PolishHooks hooks = {});

}  // namespace cbq
