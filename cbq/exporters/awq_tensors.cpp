#include "cbq/exporters/awq_tensors.h"

#include "cbq/exporters/gptq_tensors.h"
#include "cbq/exporters/packed_words.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// The output that a nibble holds, among its word's eight.
constexpr int64_t nibble_order[awq_per_word] = {0, 2, 4, 6, 1, 3, 5, 7};

/// Values below 16, u8 [rows, columns] on the host -> I32 [rows, columns / 8].
Tensor words_of_eight(const Tensor& values) {
  const int64_t rows = values.size(0), words = values.size(1) / awq_per_word;
  const Tensor packed({rows, words}, Dtype::i32, Device::cpu());
  const uint8_t* value = values.data<uint8_t>();
  for (int64_t w = 0; w < rows * words; ++w, value += awq_per_word) {
    uint32_t word = 0;
    for (int64_t i = 0; i < awq_per_word; ++i) {
      word |= static_cast<uint32_t>(value[nibble_order[i]]) << (awq_bits * i);
    }
    packed.data<int32_t>()[w] = static_cast<int32_t>(word);
  }
  return packed;
}

/// The inverse.
Tensor values_of_words(const Tensor& packed) {
  const int64_t rows = packed.size(0), words = packed.size(1);
  const Tensor values({rows, words * awq_per_word}, Dtype::u8, Device::cpu());
  uint8_t* value = values.data<uint8_t>();
  for (int64_t w = 0; w < rows * words; ++w, value += awq_per_word) {
    const auto word = static_cast<uint32_t>(packed.data<int32_t>()[w]);
    for (int64_t i = 0; i < awq_per_word; ++i) {
      value[nibble_order[i]] = static_cast<uint8_t>(word >> (awq_bits * i) & 15u);
    }
  }
  return values;
}

}  // namespace

void add_awq_layer(const std::string& path, const LayerParts& parts, NamedTensors& tensors) {
  const PackedWeight& p = *parts.packed;
  if (parts.weight.symmetric) check_symmetric(p, path);
  const Tensor codes = unpack_codes(p.codes, p.bits, p.in);
  tensors[path + ".qweight"] = words_of_eight(transposed_on_host(codes));
  tensors[path + ".qzeros"] = words_of_eight(transposed_on_host(zeros_per_output(p)));
  tensors[path + ".scales"] = half_scales(path, p);
}

void look_at_awq_layer(const LayerTensors& layer, const LayerCodes& codes) {
  const int64_t groups = layer.in() / codes.packed.group;
  if (codes.packed.bits != awq_bits || layer.out() % awq_per_word != 0) {
    fail(layer.where("qweight"), ": ", codes.packed.bits, " bits and ", layer.out(),
         " outputs; AWQ's layout has 4 bits and outputs in multiples of 8");
  }
  layer.expect("qweight", {layer.in(), layer.out() / awq_per_word}, {"I32"});
  layer.expect("qzeros", {groups, layer.out() / awq_per_word}, {"I32"});
  layer.expect("scales", {groups, layer.out()}, scale_dtypes);
}

PackedWeight read_awq_layer(const LayerTensors& layer, const LayerCodes& codes,
                            const std::string& field) {
  PackedWeight p = codes.packed;
  p.codes = pack_codes(transposed_on_host(values_of_words(layer.load("qweight"))), p.bits);
  p.scale = transposed_on_host(read_scales(layer, "scales"));
  p.zero_point = transposed_on_host(values_of_words(layer.load("qzeros")));
  if (codes.weight.symmetric) expect_middle(layer, "qzeros", p.zero_point, p.bits, field);
  return p;
}

}  // namespace cbq
