// Rotation of a model's activations by orthogonal matrices that its weights absorb.
#pragma once

#include <string>

namespace cbq {

/// Which rotations; the names are those of SpinQuant (Liu et al. 2025). R3 (queries and keys behind
/// the rotary embedding) helps quantized key-value caches alone and is left out.
struct RotationParts {
  bool r1 = false;  // of the residual stream
  bool r2 = false;  // of each head's values
  bool r4 = false;  // of the input of the feed-forward part's last linear, online
  bool any() const { return r1 || r2 || r4; }
};

/// "none", or parts in this order joined by '_': "r1", "r1_r2", "r1_r2_r4", "r4". Throws
/// std::invalid_argument with the known words.
RotationParts rotation_parts(const std::string& text);

}  // namespace cbq
