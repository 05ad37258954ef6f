// Putting quantizers on the linears of a model, and keeping their state in files.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "cbq/settings.h"
#include "cbq/stream.h"
#include "quant/transforms/local/learned_scaling.h"

namespace cbq {

/// Throws std::invalid_argument, naming the layer, when the settings cannot be for one of the
/// model's layers (a group size that does not divide): before anything is computed.
void check_layers(Transformer& model, const Settings& settings);

/// Grid of a layer of this model under these settings (overrides applied).
WeightConfig weight_config_of(const Transformer& model, const Settings& settings,
                              const WindowLinear& layer);

/// What pre-processing found for the quantizers of inputs, by layer path.
struct ActivationStarts {
  std::map<std::string, double> clips = {};  // where clip ratios start; 1 for all others
  std::map<std::string, std::vector<int64_t>> clusters =
      {};  // channels of each; one for all others
};

/// Gives quantizers to those linears of the window that have none yet. Static activation
/// quantizers observe `inputs` [segments, tokens, hidden], run through the blocks in floating
/// point (nothing when undefined: a state that is restored next has their ranges).
/// With quantize_attention the blocks get their AttentionTransform, too. Throws for NaN in a
/// weight, naming the layer. `poll` is called before every layer and every forward pass.
void attach_quantizers(Transformer& model, const Window& window, const Settings& settings,
                       const Tensor& inputs, const ActivationStarts& starts = {},
                       const Poll& poll = {});

/// Makes the factors that pre-processing has left for these blocks (by block) learnable, in blocks
/// that have none yet. To be called before attach_quantizers.
void attach_learned_scaling(Transformer& model, const Window& window,
                            const std::map<int64_t, ScalingStarts>& starts);

/// Queries, keys and values of the block at `prefix` are quantized (quant/quantized_attention.h),
/// if they are not yet; clusters of those that have some in `starts`.
void attach_attention_quantizer(Block& block, const std::string& prefix, Device device,
                                const ActivationConfig& config,
                                const ActivationStarts& starts = {});
/// Of the block's attention quantizer; none if its attention computes in floating point.
std::optional<ActivationConfig> attention_config_of(const Block& block);

/// Removes all transforms: the model is the floating-point one again (weights changed by
/// pre-processing stay changed).
void remove_quantizers(Transformer& model);

/// Freezes the blocks' weights to integer codes.
void harden_blocks(Transformer& model, const Window& blocks);
/// Gives the weights of hardened linears the dequantized values that the quantizer holds anyway:
/// the memory of the original ones is free.
void drop_originals(Transformer& model, const Window& blocks);

/// What all quantizers of these blocks have learned, and the solutions they started from (packed
/// codes once hardened): name -> tensor, under the layers' paths.
std::map<std::string, Tensor> quantizer_state(Transformer& model, const Window& blocks);
/// The inverse, for quantizers attached with the same settings; hardens what was hardened. Throws
/// std::invalid_argument naming a missing tensor.
void restore_quantizer_state(Transformer& model, const Window& blocks,
                             const std::map<std::string, Tensor>& state);

}  // namespace cbq
