// A tiny random LLaMA and calibration segments for it.
#pragma once

#include <memory>
#include <vector>

#include "kernels/formulas/philox.h"
#include "kernels/ops.h"
#include "nn/transformer.h"

namespace cbq {

inline ModelConfig tiny_config(int64_t blocks, int64_t hidden = 16) {
  ModelConfig c;
  c.vocab_size = 40;
  c.hidden_size = hidden;
  c.intermediate_size = 2 * hidden;
  c.num_layers = blocks;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = hidden / 4;
  c.max_position_embeddings = 32;
  return c;
}

/// Weights of deviation 0.2: blocks of a model this narrow would otherwise do next to nothing.
inline std::unique_ptr<Transformer> tiny_model(int64_t blocks, int64_t hidden = 16,
                                               uint64_t seed = 1) {
  auto model = make_model(tiny_config(blocks, hidden), Dtype::f32, Device::cpu());
  uint64_t stream = 0;
  model->visit("", [&](const std::string&, Var& p) {
    if (p.value().rank() == 2) {
      kernels::fill_normal(p.value(), 0.0, 0.2, seed, stream);
    } else {
      kernels::fill(p.value(), 1.0);
    }
    ++stream;
  });
  return model;
}

inline std::vector<std::vector<int32_t>> tiny_segments(int64_t count, int64_t length,
                                                       int64_t vocabulary = 40) {
  std::vector<std::vector<int32_t>> segments(static_cast<size_t>(count));
  for (size_t s = 0; s < segments.size(); ++s) {
    for (int64_t t = 0; t < length; ++t) {
      const uint32_t bits = philox_bits(9, s, static_cast<uint64_t>(t));
      segments[s].push_back(static_cast<int32_t>(bits % static_cast<uint32_t>(vocabulary)));
    }
  }
  return segments;
}

}  // namespace cbq
