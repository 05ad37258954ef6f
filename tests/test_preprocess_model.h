// A small random LLaMA that pre-processing has something to do on, and what the tests ask of it.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "nn/transformer.h"
#include "quant/transforms/global/outlier_transform.h"
#include "quant/transforms/local/preprocessor.h"

namespace cbq::test {

/// Two blocks, 64 channels, 4 heads of 16; biases everywhere, f64 unless asked for.
inline std::unique_ptr<Transformer> small_model(int64_t kv_heads, Dtype dtype = Dtype::f64) {
  ModelConfig c;
  c.vocab_size = 50;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = kv_heads;
  c.head_dim = 16;
  c.max_position_embeddings = 32;
  c.attention_bias = true;
  c.attention_output_bias = true;
  c.mlp_bias = true;
  std::unique_ptr<Transformer> model = make_model(c, dtype, Device::cpu());
  uint64_t stream = 0;
  model->visit("", [&](const std::string&, Var& p) {
    const bool matrix = p.value().rank() == 2;
    kernels::fill_normal(p.value(), 0.0, matrix ? 0.2 : 0.3, 5, stream++);
  });
  return model;
}

inline std::vector<std::vector<int32_t>> small_segments() {
  std::vector<std::vector<int32_t>> segments;
  for (int32_t s = 0; s < 6; ++s) {
    std::vector<int32_t> ids;
    for (int32_t t = 0; t < (s < 4 ? 20 : 13); ++t) ids.push_back((7 * s + 11 * t + t * t) % 50);
    segments.push_back(ids);
  }
  return segments;
}

inline std::vector<double> logits_of(Transformer& model) {
  std::vector<double> all;
  for (const std::vector<int32_t>& ids : small_segments()) {
    const auto n = static_cast<int64_t>(ids.size());
    const Var y = model.forward(Tensor::from(ids, {n}, Dtype::i32), {1, n});
    for (const double v : y.value().to_vector<double>()) all.push_back(v);
  }
  return all;
}

inline Linear& layer(Transformer& model, int64_t block, const std::string& name) {
  for (auto& [n, linear] : model.blocks[static_cast<size_t>(block)]->linears()) {
    if (n == name) return *linear;
  }
  throw std::invalid_argument("no linear " + name);
}

inline std::map<std::string, std::vector<double>> values_of(Transformer& model) {
  std::map<std::string, std::vector<double>> values;
  model.visit(
      "", [&](const std::string& path, Var& p) { values[path] = p.value().to_vector<double>(); });
  return values;
}

/// Multiplies rows of a weight, and their bias: outlier channels of what the linear produces.
inline void scale_rows(Linear& linear, const std::vector<int64_t>& rows, double factor) {
  std::vector<double> w = linear.weight.value().to_vector<double>();
  for (const int64_t r : rows) {
    for (int64_t c = 0; c < linear.in_features(); ++c) {
      w.at(static_cast<size_t>(r * linear.in_features() + c)) *= factor;
    }
  }
  linear.weight.set_value(Tensor::from(w, linear.weight.shape(), linear.weight.dtype()));
}

/// A model with outlier channels behind norms, in the attention's values and in the MLP's middle.
inline std::unique_ptr<Transformer> model_with_outliers(int64_t kv_heads,
                                                        Dtype dtype = Dtype::f64) {
  auto model = small_model(kv_heads, dtype);
  for (int64_t b = 0; b < 2; ++b) {
    scale_rows(layer(*model, b, "self_attn.v_proj"), {3, 4, 11}, 30.0);
    scale_rows(layer(*model, b, "mlp.up_proj"), {5, 60}, 40.0);
  }
  add_outlier_channels(*model, 3, 25.0, 9);
  return model;
}

inline PreprocessContext context_of(int wbits, int abits) {
  PreprocessContext context;
  context.weight.bits = wbits;
  context.activation.bits = abits;
  return context;
}

inline std::string joined(const std::vector<std::string>& notes) {
  std::string text;
  for (const std::string& note : notes) text += note + "\n";
  return text;
}

}  // namespace cbq::test
