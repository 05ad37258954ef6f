// What tests of exported folders share: a small quantized model, and streams of codes read by loops
// that know nothing but the published layout: value i of a stream of b-bit values has the bits
// [i b, (i + 1) b) of its words, lowest first.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "cbq/methods.h"
#include "cbq/pipeline.h"
#include "tests/fixtures.h"

namespace cbq::test {

inline Settings export_settings(const nlohmann::json& changes) {
  Settings settings = method_settings("cbq_windows", 4, float_bits);
  settings.reconstruct = "none";
  settings.scale_type = "f16";
  // Layers of 48 inputs or outputs, and keys and values of 16, are no multiples of 32.
  settings.layer_bits = "down_proj=16,up_proj=16,gate_proj=16,k_proj=16,v_proj=16";
  apply_json(settings, changes);
  return settings;
}

inline std::unique_ptr<Transformer> quantized_for_export(const nlohmann::json& changes) {
  auto model = load_model(fixture("llama"), Dtype::f32, Device::cpu());
  quantize(*model, {{1, 2, 3, 4}}, export_settings(changes), nullptr, {});
  return model;
}

/// Element (row, column) of a matrix of words with so many columns.
inline uint32_t word(const std::vector<int32_t>& words, int64_t columns, int64_t row,
                     int64_t column) {
  return static_cast<uint32_t>(words[static_cast<size_t>(row * columns + column)]);
}

/// Value i of the stream down a column.
inline int down(const std::vector<int32_t>& words, int64_t columns, int64_t column, int64_t i,
                int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = i * bits + b;
    value |= static_cast<int>(word(words, columns, at / 32, column) >> (at % 32) & 1u) << b;
  }
  return value;
}
/// Value i of the stream along a row.
inline int along(const std::vector<int32_t>& words, int64_t columns, int64_t row, int64_t i,
                 int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t at = i * bits + b;
    value |= static_cast<int>(word(words, columns, row, at / 32) >> (at % 32) & 1u) << b;
  }
  return value;
}

}  // namespace cbq::test
