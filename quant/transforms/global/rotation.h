// Rotation of a model's activations by orthogonal matrices that its weights absorb.
#pragma once

#include <string>

namespace cbq {

/// Which rotations; the names r1 to r4 are those of SpinQuant (Liu et al. 2025).
struct RotationParts {
  bool r1 = false;       // of the residual stream
  bool block64 = false;  // r1 rotates blocks of 64 channels, each by itself
  bool r2 = false;       // of each head's values
  bool r3 = false;       // of each head's queries and keys behind the rotary embedding, online
  bool r4 = false;       // of the input of the feed-forward part's last linear, online
  bool any() const { return r1 || r2 || r3 || r4; }
};

/// "none", or parts in this order joined by '_': "r1" or in its place "block64", "r2", "r3", "r4";
/// as in "r1_r2", "block64_r2_r4", "r4". Throws std::invalid_argument with the known words.
RotationParts rotation_parts(const std::string& text);

}  // namespace cbq
