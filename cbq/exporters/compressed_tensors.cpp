// "compressed-tensors": the format "pack-quantized" of the Python package of that name (0.18 and
// later, pack_quantized/helpers.py there), which vLLM and transformers load.
//
//   <layer>.weight_packed      I32 [out, ceil(in b / 32)]: codes as one bit stream per row, first
//                              code in the lowest bits, across words
//   <layer>.weight_scale       [out, groups], in the type of the folder
//   <layer>.weight_zero_point  I32 [ceil(out b / 32), groups], packed along the outputs; only of
//                              asymmetric grids, where a symmetric one has 2^(b-1)
//   <layer>.weight_shape       I64 [2]
//
// There, codes and zero points are signed and 2^(b-1) is added when they are packed, so that the
// bits are those of our unsigned ones. W = (q - z) s in the type of the scale.
#include "cbq/exporters/coded_exporter.h"
#include "cbq/exporters/packed_words.h"
#include "kernels/ops.h"
#include "nn/families/family.h"

using nlohmann::json;

namespace cbq {
namespace {

/// The "weights" of a group of layers in config.json. Keys that all versions of the package know.
json arguments_of(const WeightConfig& config) {
  const bool grouped = config.granularity == Granularity::per_group;
  json arguments = {{"num_bits", config.bits},
                    {"type", "int"},
                    {"symmetric", config.symmetric},
                    {"strategy", grouped ? "group" : "channel"},
                    {"dynamic", false}};
  if (grouped) arguments["group_size"] = config.group_size;
  return arguments;
}

class CompressedTensorsExporter final : public CodedExporter {
 public:
  std::string name() const override { return "compressed-tensors"; }
  std::string help() const override {
    return "integer codes for vLLM and transformers (pack-quantized, as of version 0.18)";
  }
  std::string obstacle(const ExportPlan& plan) const override {
    std::string obstacle = weights_only_obstacle(plan, "the learned ranges of activations");
    return obstacle.empty() ? act_order_obstacle(plan) : obstacle;
  }

 protected:
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override {
    const PackedWeight& p = *parts.packed;
    NamedTensors& tensors = to.tensors;
    tensors[path + ".weight_packed"] = words_of(p.codes, words_for(p.in, p.bits));
    const Tensor scale = scales_per_output(p);
    Tensor& written = tensors[path + ".weight_scale"] = kernels::cast(scale, dtype());
    check(!kernels::has_non_finite(written), "export: ", path, ": a scale is too large for ",
          dtype(), "; give another --dtype");
    tensors[path + ".weight_shape"] =
        Tensor::from<int32_t>({static_cast<int32_t>(p.out), static_cast<int32_t>(p.in)}, {2});
    to.as_i64.insert(path + ".weight_shape");
    if (parts.weight.symmetric) {
      check_symmetric(p, path);
    } else {
      // pack_codes refuses a zero point outside the grid, which the format cannot hold.
      const Tensor packed = pack_codes(transposed_on_host(zeros_per_output(p)), p.bits);
      tensors[path + ".weight_zero_point"] =
          transposed_on_host(words_of(packed, words_for(p.out, p.bits)));
    }
    groups_[arguments_of(parts.weight).dump()].push_back(path);
  }
  json section() const override;

 private:
  std::map<std::string, std::vector<std::string>> groups_;  // arguments -> layers
};

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
  for (const auto& [arguments, layers] : groups_) {
    // One kind of layer is named by its class, as the package itself does.
    const json targets = groups_.size() == 1 ? json::array({"Linear"}) : json(layers);
    groups[concat("group_", groups.size())] = {{"targets", targets},
                                               {"weights", json::parse(arguments)},
                                               {"input_activations", nullptr},
                                               {"output_activations", nullptr}};
  }
  return {{"quant_method", name()},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", ignored},
          {"config_groups", groups}};
}

[[maybe_unused]] const bool registered = register_exporter<CompressedTensorsExporter>();

}  // namespace
}  // namespace cbq
