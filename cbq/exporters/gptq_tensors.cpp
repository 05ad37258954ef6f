#include "cbq/exporters/gptq_tensors.h"

#include <algorithm>

#include "cbq/exporters/packed_words.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

constexpr int64_t packed_at_once = 32;  // inputs and outputs come in multiples of it

bool holds_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

std::string layer_obstacle(const PlannedLayer& layer, StoredZero stored,
                           const std::string& with_exact_zero) {
  const WeightConfig& config = layer.weight;
  if (!config.quantizes()) return "";
  if (std::string scales = half_scale_obstacle(layer); !scales.empty()) return scales;
  if (!holds_bits(config.bits)) {
    return concat(layer.path, " has ", config.bits, " bits; it holds 2, 3, 4 and 8");
  }
  if (layer.in % packed_at_once != 0 || layer.out % packed_at_once != 0) {
    return concat(layer.path, " has ", layer.in, " inputs and ", layer.out,
                  " outputs; both must be multiples of ", packed_at_once,
                  " (--layer-bits NAME=16 leaves such layers in floating point)");
  }
  if (stored == StoredZero::minus_one && !config.symmetric) {
    return concat("it stores zero points less one, so that a zero point of 0 has no place (",
                  with_exact_zero, " stores them as they are; --symmetric has none of 0)");
  }
  return "";
}

}  // namespace

std::string gptq_obstacle(const ExportPlan& plan, StoredZero stored,
                          const std::string& with_exact_zero) {
  const std::string general = weights_only_obstacle(plan, "quantizers of activations");
  if (!general.empty()) return general;
  for (const PlannedLayer& layer : plan.layers) {
    std::string obstacle = layer_obstacle(layer, stored, with_exact_zero);
    if (!obstacle.empty()) return obstacle;
  }
  return "";
}

Tensor half_scales(const std::string& path, const PackedWeight& weight) {
  const Tensor scale = transposed_on_host(scales_per_output(weight));
  const Tensor half = kernels::cast(scale, Dtype::f16);
  check(scale.to_vector<float>() == half.to_vector<float>(), "export: ", path,
        ": a scale is no number of f16; quantize with --scale-type f16");
  return half;
}

void add_gptq_layer(const std::string& path, const LayerParts& parts, StoredZero stored,
                    bool with_group_index, NamedTensors& tensors) {
  const PackedWeight& p = *parts.packed;
  if (parts.weight.symmetric) check_symmetric(p, path);
  tensors[path + ".qweight"] = transposed_on_host(words_of(p.codes, words_for(p.in, p.bits)));

  tensors[path + ".scales"] = half_scales(path, p);

  const Tensor zero = transposed_on_host(zeros_per_output(p)).clone();
  if (stored == StoredZero::minus_one) {
    uint8_t* z = zero.data<uint8_t>();
    for (int64_t i = 0; i < zero.count(); ++i) {
      check(z[i] > 0, "export: ", path, ": a zero point is 0, which cannot be stored less one");
      --z[i];
    }
  }
  tensors[path + ".qzeros"] = words_of(pack_codes(zero, p.bits), words_for(p.out, p.bits));

  if (!with_group_index) return;
  if (p.group_index.defined()) {
    tensors[path + ".g_idx"] = p.group_index;
    return;
  }
  const Tensor index({p.in}, Dtype::i32, Device::cpu());
  for (int64_t j = 0; j < p.in; ++j) {
    index.data<int32_t>()[j] = static_cast<int32_t>(j / p.group);
  }
  tensors[path + ".g_idx"] = index;
}

void look_at_gptq_layer(const LayerTensors& layer, LayerCodes& codes) {
  const int bits = codes.packed.bits;
  const int64_t groups = layer.in() / codes.packed.group;
  if (layer.in() * bits % 32 != 0 || layer.out() * bits % 32 != 0) {
    fail(layer.where("qweight"), ": ", layer.in(), " inputs and ", layer.out(), " outputs of ",
         bits, " bits do not fill words of 32 bits; padded layers are not read");
  }
  layer.expect("qweight", {words_for(layer.in(), bits), layer.out()}, {"I32"});
  layer.expect("qzeros", {groups, words_for(layer.out(), bits)}, {"I32"});
  layer.expect("scales", {groups, layer.out()}, scale_dtypes);
  if (layer.has("g_idx")) read_group_index(layer, "g_idx", codes);
}

PackedWeight read_gptq_layer(const LayerTensors& layer, const LayerCodes& codes,
                             StoredZero stored) {
  PackedWeight p = codes.packed;
  p.codes = bytes_of_words(transposed_on_host(layer.load("qweight")), p.in, p.bits);
  p.scale = transposed_on_host(read_scales(layer, "scales"));
  const Tensor zero =
      unpack_codes(bytes_of_words(layer.load("qzeros"), p.out, p.bits), p.bits, p.out);
  if (stored == StoredZero::minus_one) {
    const int largest = (1 << p.bits) - 1;
    uint8_t* z = zero.data<uint8_t>();
    for (int64_t i = 0; i < zero.count(); ++i) {
      if (z[i] == largest) {
        fail(layer.where("qzeros"), ": a zero point less one is stored as ", largest,
             ", which some programs read as 0 and others as ", largest + 1,
             "; take the folder in a layout that stores zero points as they are (gptq_v2)");
      }
      ++z[i];
    }
  }
  p.zero_point = transposed_on_host(zero);
  if (codes.weight.symmetric) expect_middle(layer, "qzeros", p.zero_point, p.bits, "\"sym\"");
  return p;
}

void GptqGrids::add(const std::string& path, const WeightConfig& config) {
  const bool grouped = config.granularity == Granularity::per_group;
  const GptqGrid grid{config.bits, grouped ? config.group_size : -1, config.symmetric};
  layers_[grid].push_back(path);
}

const GptqGrid& GptqGrids::usual() const {
  const auto larger = [](const auto& a, const auto& b) {
    return a.second.size() < b.second.size();
  };
  return std::max_element(layers_.begin(), layers_.end(), larger)->first;
}

std::vector<std::pair<std::string, GptqGrid>> GptqGrids::others() const {
  std::vector<std::pair<std::string, GptqGrid>> others;
  const GptqGrid& most = usual();
  for (const auto& [grid, layers] : layers_) {
    if (grid == most) continue;
    for (const std::string& layer : layers) others.emplace_back(layer, grid);
  }
  return others;
}

std::string exact_expression(const std::string& path) {
  std::string expression = "^";
  for (const char c : path) expression += c == '.' ? std::string("\\.") : std::string(1, c);
  return expression + "$";
}

}  // namespace cbq
