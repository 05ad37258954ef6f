// Rotary position embedding (Su et al. 2021): the tables of cosines and sines.
#pragma once

#include "nn/config.h"
#include "tensor/tensor.h"

namespace cbq {

struct RopeTables {
  Tensor cosine;  // [positions, head_dim / 2] f32
  Tensor sine;
};

/// cos and sin of position * f_j with f_j = theta^(-2j / head_dim), j < head_dim / 2, after the
/// frequency scaling that `config` names:
///   linear: f / factor.
///   llama3: wavelengths above original_context / low_freq_factor divide by factor, those below
///           original_context / high_freq_factor stay, between them a linear blend (Llama 3.1).
RopeTables rope_tables(const RopeConfig& config, int64_t head_dim, int64_t positions,
                       Device device);

}  // namespace cbq
