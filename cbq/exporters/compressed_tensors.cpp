// "compressed-tensors": two formats of the Python package of that name, which vLLM and transformers
// load. As the package does, layers whose inputs stay in floating point are written in
// "pack-quantized" (0.18 and later, pack_quantized/helpers.py there):
//
//   <layer>.weight_packed      I32 [out, ceil(in b / 32)]: codes as one bit stream per row, first
//                              code in the lowest bits, across words
//   <layer>.weight_scale       [out, groups], in the type of the folder
//   <layer>.weight_zero_point  I32 [ceil(out b / 32), groups], packed along the outputs; only of
//                              asymmetric grids, where a symmetric one has 2^(b-1)
//   <layer>.weight_shape       I64 [2]
//
// and layers whose inputs are quantized, too, in "int-quantized":
//
//   <layer>.weight             I8 [out, in]: a byte per code, of any number of bits
//   <layer>.weight_scale       as above
//   <layer>.weight_zero_point  I8 [out, groups]; only of asymmetric grids
//   <layer>.input_scale        F32 [1] and
//   <layer>.input_zero_point   I8 [1], asymmetric: only of ranges from calibration (per tensor)
//
// Codes and zero points are signed: 2^(b-1) less than ours. It is added when they are packed, so
// that the bits of words are those of our unsigned ones. W = (q - z) s in the type of the scale.
// Ranges per token are made as here (quant/grid_rule.h), without a clip ratio, symmetric ones in
// the full_range form.
#include <algorithm>
#include <set>

#include "cbq/exporters/coded_exporter.h"
#include "cbq/exporters/packed_words.h"
#include "kernels/ops.h"
#include "nn/families/family.h"

using nlohmann::json;

namespace cbq {
namespace {

/// What weights and inputs have in common in config.json. Keys that all versions of the package
/// know.
json integers(int bits, bool symmetric, const char* strategy, bool dynamic) {
  return {{"num_bits", bits},
          {"type", "int"},
          {"symmetric", symmetric},
          {"strategy", strategy},
          {"dynamic", dynamic}};
}

/// The "weights" of a group of layers.
json arguments_of(const WeightConfig& config) {
  const bool grouped = config.granularity == Granularity::per_group;
  json arguments = integers(config.bits, config.symmetric, grouped ? "group" : "channel", false);
  if (grouped) arguments["group_size"] = config.group_size;
  return arguments;
}

/// The "input_activations" of a group of layers.
json arguments_of(const ActivationQuantizer* input) {
  if (input == nullptr) return nullptr;
  const ActivationConfig& config = input->config();
  return integers(config.bits, config.symmetric, config.dynamic ? "token" : "tensor",
                  config.dynamic);
}

/// u8 below 2^bits -> the bytes of q - 2^(bits - 1), to be stored as I8.
Tensor signed_bytes(const Tensor& codes, int bits) {
  const Tensor host = codes.to(Device::cpu());
  const Tensor result(host.shape(), Dtype::u8, Device::cpu());
  const auto middle = static_cast<uint8_t>(1 << (bits - 1));
  std::transform(host.data<uint8_t>(), host.data<uint8_t>() + host.count(), result.data<uint8_t>(),
                 [&](uint8_t q) { return static_cast<uint8_t>(q - middle); });
  return result;
}

/// Why inputs of this kind have no place in the format, or "".
std::string input_obstacle(const PlannedLayer& layer) {
  const ActivationConfig& input = layer.input;
  const std::string inputs = "the inputs of " + layer.path;
  if (!input.quantizes()) return "";
  if (!layer.weight.quantizes()) {
    return concat(inputs, " are quantized and its weight is not, for which it has no place (leave ",
                  "its bits in --layer-bits below ", float_bits, ")");
  }
  if (input.bits > 8) {
    return concat(inputs, " have ", input.bits, " bits, and it holds up to 8");
  }
  if (input.granularity == Granularity::per_cluster) {
    return concat(inputs, " have a range per cluster of channels, for which it has no place");
  }
  if (!input.dynamic) return "";
  if (input.symmetric && input.form != SymmetricForm::full_range) {
    return concat("its symmetric ranges per token are of the form full_range, those of ", inputs,
                  " are ", name_of(input.form), " (quantize with --act-symmetric-form full_range)");
  }
  if (!layer.clipped) return "";
  return concat("the ranges per token of ", inputs, " have learned or chosen clip ratios, for ",
                "which it has no place (quantize with --no-learn-activation, and without a ",
                "preprocessing that clips them)");
}

class CompressedTensorsExporter final : public CodedExporter {
 public:
  std::string name() const override { return "compressed-tensors"; }
  std::string help() const override {
    return "integer codes for vLLM and transformers (pack-quantized, as of version 0.18; where "
           "inputs are quantized, int-quantized)";
  }
  std::string obstacle(const ExportPlan& plan) const override;
  /// A static range is stored as its scale, of which a reader makes another range.
  bool rounds(const ExportPlan& plan, Dtype computed, Dtype written) const override {
    const auto* with_range = plan.first_layer(
        [](const PlannedLayer& l) { return l.input.quantizes() && !l.input.dynamic; });
    return with_range != nullptr || CodedExporter::rounds(plan, computed, written);
  }

 protected:
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override;
  json section() const override;

 private:
  void add_scale(const std::string& path, const PackedWeight& p, NamedTensors& tensors) const;

  struct Group {
    json weights, inputs;
    std::vector<std::string> layers;
    const char* format() const { return inputs.is_null() ? "pack-quantized" : "int-quantized"; }
  };
  std::map<std::string, Group> groups_;  // by their text
};

std::string CompressedTensorsExporter::obstacle(const ExportPlan& plan) const {
  for (const std::string& found : {coded_obstacle(plan), act_order_obstacle(plan)}) {
    if (!found.empty()) return found;
  }
  if (plan.attention) {
    return "it has no place for the ranges of queries, keys and values (quantize with "
           "--no-quantize-attention)";
  }
  const auto* layer =
      plan.first_layer([](const PlannedLayer& l) { return !input_obstacle(l).empty(); });
  return layer == nullptr ? "" : input_obstacle(*layer);
}

void CompressedTensorsExporter::add_scale(const std::string& path, const PackedWeight& p,
                                          NamedTensors& tensors) const {
  Tensor& written = tensors[path + ".weight_scale"] = kernels::cast(scales_per_output(p), dtype());
  check(!kernels::has_non_finite(written), "export: ", path, ": a scale is too large for ", dtype(),
        "; give another --dtype");
}

void add_packed(const std::string& path, const LayerParts& parts, CodedTensors& to) {
  const PackedWeight& p = *parts.packed;
  to.tensors[path + ".weight_packed"] = words_of(p.codes, words_for(p.in, p.bits));
  to.tensors[path + ".weight_shape"] =
      Tensor::from<int32_t>({static_cast<int32_t>(p.out), static_cast<int32_t>(p.in)}, {2});
  to.stored[path + ".weight_shape"] = StoredAs::i64;
  if (parts.weight.symmetric) return;
  // pack_codes refuses a zero point outside the grid, which the format cannot hold.
  const Tensor packed = pack_codes(transposed_on_host(zeros_per_output(p)), p.bits);
  to.tensors[path + ".weight_zero_point"] =
      transposed_on_host(words_of(packed, words_for(p.out, p.bits)));
}

/// Adds codes of one byte.
void add_bytes(const std::string& name, const Tensor& codes, int bits, CodedTensors& to) {
  to.tensors[name] = signed_bytes(codes, bits);
  to.stored[name] = StoredAs::i8;
}

void add_unpacked(const std::string& path, const LayerParts& parts, CodedTensors& to) {
  const PackedWeight& p = *parts.packed;
  add_bytes(path + ".weight", unpack_codes(p.codes, p.bits, p.in), p.bits, to);
  if (!parts.weight.symmetric) {
    add_bytes(path + ".weight_zero_point", zeros_per_output(p), p.bits, to);
  }
  const ActivationConfig& input = parts.activation->config();
  if (input.dynamic) return;
  const StaticGrid grid = parts.activation->static_grid();
  to.tensors[path + ".input_scale"] = Tensor::from<float>({grid.scale}, {1});
  if (input.symmetric) return;
  const auto zero = static_cast<uint8_t>(grid.zero_point);
  add_bytes(path + ".input_zero_point", Tensor::from<uint8_t>({zero}, {1}), input.bits, to);
}

void CompressedTensorsExporter::add_layer(const std::string& path, const LayerParts& parts,
                                          CodedTensors& to) {
  add_scale(path, *parts.packed, to.tensors);
  if (parts.weight.symmetric) check_symmetric(*parts.packed, path);
  (parts.activation ? add_unpacked : add_packed)(path, parts, to);
  Group group{arguments_of(parts.weight), arguments_of(parts.activation), {}};
  const std::string text = group.weights.dump() + group.inputs.dump();
  groups_.emplace(text, std::move(group)).first->second.layers.push_back(path);
}

json CompressedTensorsExporter::section() const {
  std::vector<std::string> ignored = in_floating_point();
  const std::string head = family_of(model().config.architecture).head_name();
  ignored.push_back(head.substr(0, head.size() - 7));  // also where it is tied: no parameter then
  for (const auto& [path, tensor] : outer_parameters(model())) {
    if (tensor.rank() == 2 && path.ends_with(".weight") && path != head) {
      ignored.push_back(path.substr(0, path.size() - 7));
    }
  }
  json groups = json::object();
  std::set<std::string> formats;
  for (const auto& [text, group] : groups_) {
    // One kind of layer is named by its class, as the package itself does.
    const json targets = groups_.size() == 1 ? json::array({"Linear"}) : json(group.layers);
    groups[concat("group_", groups.size())] = {{"targets", targets},
                                               {"weights", group.weights},
                                               {"input_activations", group.inputs},
                                               {"output_activations", nullptr},
                                               {"format", group.format()}};
    formats.insert(group.format());
  }
  return {{"quant_method", name()},
          {"format", formats.size() == 1 ? *formats.begin() : "mixed-precision"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", ignored},
          {"config_groups", groups}};
}

[[maybe_unused]] const bool registered = register_exporter<CompressedTensorsExporter>();

}  // namespace
}  // namespace cbq
