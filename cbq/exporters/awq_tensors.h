// The tensors of AWQ's checkpoints (Lin et al. 2024; layout "gemm" of AutoAWQ).
//
//   <layer>.qweight  I32 [in, out / 8]: a word holds the codes of 8 neighbouring outputs
//   <layer>.qzeros   I32 [groups, out / 8]: zero points likewise
//   <layer>.scales   F16 [groups, out]
//
// Nibble i of a word (the lowest first) is output 0, 2, 4, 6, 1, 3, 5 or 7 of its 8, for i = 0, 1,
// and so on. W = s (q - z).
#pragma once

#include <string>

#include "cbq/exporters/layer_parts.h"
#include "cbq/exporters/layout_reader.h"

namespace cbq {

inline constexpr int awq_bits = 4;
inline constexpr int64_t awq_per_word = 8;

/// Adds the tensors of a layer. Throws std::invalid_argument, naming `path`, for a scale that is no
/// f16.
void add_awq_layer(const std::string& path, const LayerParts& parts, NamedTensors& tensors);

/// The inverse, of a folder: looks at headers, and reads a layer. `codes` begin as grid_of(). Both
/// throw std::runtime_error naming file and tensor for what does not fit.
void look_at_awq_layer(const LayerTensors& layer, const LayerCodes& codes);
/// `field` is named where the grid is symmetric and a zero point is not the middle code.
PackedWeight read_awq_layer(const LayerTensors& layer, const LayerCodes& codes,
                            const std::string& field);

}  // namespace cbq
