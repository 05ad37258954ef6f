// A quantization run of a model of either kind: all blocks in memory, or loaded on demand.
#pragma once

#include <filesystem>
#include <memory>

#include "cbq/pipeline.h"

namespace cbq {

/// quantize(); afterwards `model` is the quantized one. Of a model whose blocks are loaded on
/// demand, finished blocks go to `packed_folder` at once (the format "packed", a file per block;
/// hooks.keep_block must be empty), and `model` becomes what open_quantized reads from there, which
/// needs that folder as long as it lives. Of a model in memory nothing is written. The codes, and
/// all that the model computes, are the same. Throws as quantize() does, std::runtime_error where
/// the disk fails.
RunResult quantize_any(std::unique_ptr<Transformer>& model,
                       const std::vector<std::vector<int32_t>>& segments, const Settings& settings,
                       std::shared_ptr<ActivationCache> original, RunHooks hooks,
                       const std::filesystem::path& packed_folder);

}  // namespace cbq
