// "awq": AWQ's checkpoints (Lin et al. 2024; layout "gemm" of AutoAWQ), 4 bits and one grid for all
// layers.
//
//   <layer>.qweight  I32 [in, out / 8]: a word holds the codes of 8 neighbouring outputs
//   <layer>.qzeros   I32 [groups, out / 8]: zero points likewise
//   <layer>.scales   F16 [groups, out]
//
// Nibble i of a word (the lowest first) is output `order[i]` of its 8. W = s (q - z).
#include "cbq/exporters/gptq_tensors.h"
#include "cbq/exporters/packed_words.h"

using nlohmann::json;

namespace cbq {
namespace {

constexpr int only_bits = 4;
constexpr int64_t per_word = 8;
constexpr int64_t order[per_word] = {0, 2, 4, 6, 1, 3, 5, 7};

/// Values below 16, u8 [rows, columns] on the host -> I32 [rows, columns / 8].
Tensor words_of_eight(const Tensor& values) {
  const int64_t rows = values.size(0), words = values.size(1) / per_word;
  const Tensor packed({rows, words}, Dtype::i32, Device::cpu());
  const uint8_t* value = values.data<uint8_t>();
  for (int64_t w = 0; w < rows * words; ++w, value += per_word) {
    uint32_t word = 0;
    for (int64_t i = 0; i < per_word; ++i) {
      word |= static_cast<uint32_t>(value[order[i]]) << (only_bits * i);
    }
    packed.data<int32_t>()[w] = static_cast<int32_t>(word);
  }
  return packed;
}

std::string layer_obstacle(const PlannedLayer& layer) {
  if (!layer.weight.quantizes()) return "";
  if (layer.weight.bits != only_bits) {
    return concat(layer.path, " has ", layer.weight.bits, " bits; it holds 4 alone");
  }
  if (layer.out % per_word != 0) {
    return concat(layer.path, " has ", layer.out, " outputs, not a multiple of ", per_word,
                  " (--layer-bits NAME=16 leaves such layers in floating point)");
  }
  return half_scale_obstacle(layer);
}

class AwqExporter final : public CodedExporter {
 public:
  std::string name() const override { return "awq"; }
  std::string help() const override {
    return "4-bit codes for transformers, GPTQModel and vLLM (AWQ's layout gemm)";
  }
  std::string obstacle(const ExportPlan& plan) const override {
    std::string obstacle = weights_only_obstacle(plan, "quantizers of activations");
    if (!obstacle.empty()) return obstacle;
    const auto* layer =
        plan.first_layer([](const PlannedLayer& l) { return layer_obstacle(l) != ""; });
    return layer == nullptr ? "" : layer_obstacle(*layer);
  }

 protected:
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override {
    const PackedWeight& p = *parts.packed;
    if (parts.weight.symmetric) check_symmetric(p, path);
    const Tensor codes = unpack_codes(p.codes, p.bits, p.in);
    to.tensors[path + ".qweight"] = words_of_eight(transposed_on_host(codes));
    to.tensors[path + ".qzeros"] = words_of_eight(transposed_on_host(zeros_per_output(p)));
    to.tensors[path + ".scales"] = half_scales(path, p);
    grids_.add(path, parts.weight);
  }
  json section() const override {
    json section = {{"quant_method", "awq"},
                    {"version", "gemm"},
                    {"bits", only_bits},
                    {"group_size", grids_.usual().group_size},
                    // Zero points are stored for symmetric grids, too.
                    {"zero_point", true}};
    section["modules_to_not_convert"] =
        in_floating_point().empty() ? json() : json(in_floating_point());
    return section;
  }

 private:
  GptqGrids grids_;
};

[[maybe_unused]] const bool registered = register_exporter<AwqExporter>();

}  // namespace
}  // namespace cbq
