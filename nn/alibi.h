// Attention with linear biases (Press, Smith & Lewis 2022): the slopes of the heads.
#pragma once

#include "tensor/tensor.h"

namespace cbq {

/// With m the largest power of two that is at most `heads`: slope_k = 2^(-8 (k + 1) / m) for k < m;
/// the other heads take every second slope of 2 m heads, 2^(-4 (2i + 1) / m) for i = 0, 1, ...
/// -> [heads] f32.
Tensor alibi_slopes(int64_t heads, Device device);

}  // namespace cbq
