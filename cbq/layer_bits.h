// Bits of single layers: the setting layer_bits, "down_proj=4,*.0.self_attn.*=8".
#pragma once

#include <string>
#include <vector>

namespace cbq {

struct LayerBits {
  std::string pattern;
  int bits;
};

/// Entries of "pattern=bits,...". Throws std::invalid_argument for what is none, and for bits that
/// no grid has.
std::vector<LayerBits> parse_layer_bits(const std::string& text);

/// Whether `pattern` means the layer with this checkpoint path: '*' stands for any characters, '?'
/// for one, and the whole path must match. A pattern without either matches anywhere in the path.
bool layer_matches(const std::string& pattern, const std::string& layer);

}  // namespace cbq
