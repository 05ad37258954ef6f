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
#include "cbq/exporters/layer_parts.h"
#include "cbq/exporters/packed_words.h"
#include "cbq/stream.h"
#include "kernels/ops.h"

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

class CompressedTensorsExporter final : public Exporter {
 public:
  std::string name() const override { return "compressed-tensors"; }
  std::string help() const override {
    return "integer codes for vLLM and transformers (pack-quantized, as of version 0.18)";
  }
  std::vector<Dtype> dtypes() const override { return {Dtype::f32, Dtype::bf16, Dtype::f16}; }
  std::string obstacle(const ExportPlan& plan) const override {
    if (plan.quantizes_activations()) {
      return "it has no place for the learned ranges of activations (with --abits 16 there are "
             "none)";
    }
    if (const auto* layer =
            plan.first_layer([](const PlannedLayer& l) { return l.online != ""; })) {
      return concat(layer->path, " stands behind an online transform (", layer->online,
                    "), for which it has no place");
    }
    const auto* coded =
        plan.first_layer([](const PlannedLayer& l) { return l.weight.quantizes(); });
    return coded == nullptr ? "no layer has codes" : "";
  }
  // The weight is (q - z) s in the type of the scale.
  bool rounds(const ExportPlan&, Dtype computed, Dtype written) const override {
    return computed != Dtype::f32 || written != Dtype::f32;
  }

  void begin(Transformer& model, const ExportTarget& target) override {
    model_ = &model;
    target_ = target;
    files_.emplace(target, model.block_count() + 1);
  }
  void add_block(int64_t block) override {
    NamedTensors floats = block_parameters(*model_, block), coded;
    std::set<std::string> shapes;
    for (const WindowLinear& l : linears_of(*model_, {block, 1})) {
      const LayerParts parts = parts_of(*l.linear, l.path);
      if (!parts.packed) {
        ignored_.push_back(l.path);
        continue;
      }
      floats.erase(l.path + ".weight");
      add_layer(l.path, parts, coded);
      shapes.insert(l.path + ".weight_shape");
      groups_[arguments_of(parts.weight).dump()].push_back(l.path);
    }
    add(std::move(floats), std::move(coded), shapes);
  }
  void finish() override {
    NamedTensors outer = outer_parameters(*model_);
    ignored_.emplace_back("lm_head");  // also where it is tied, and so no parameter
    for (const auto& [path, tensor] : outer) {
      if (tensor.rank() == 2 && path.ends_with(".weight") && path != "lm_head.weight") {
        ignored_.push_back(path.substr(0, path.size() - 7));
      }
    }
    add(std::move(outer), {}, {});
    files_->finish();
    write_config(target_.folder, config());
  }

 private:
  void add_layer(const std::string& path, const LayerParts& parts, NamedTensors& tensors) const {
    const PackedWeight& p = *parts.packed;
    tensors[path + ".weight_packed"] = words_of(p.codes, words_for(p.in, p.bits));
    const Tensor scale = scales_per_output(p);
    Tensor& written = tensors[path + ".weight_scale"] = kernels::cast(scale, target_.dtype);
    check(!kernels::has_non_finite(written), "export: ", path, ": a scale is too large for ",
          target_.dtype, "; give another --dtype");
    tensors[path + ".weight_shape"] =
        Tensor::from<int32_t>({static_cast<int32_t>(p.out), static_cast<int32_t>(p.in)}, {2});
    if (parts.weight.symmetric) {
      check_symmetric(p, path);
    } else {
      // pack_codes refuses a zero point outside the grid, which the format cannot hold.
      const Tensor packed = pack_codes(transposed_on_host(zeros_per_output(p)), p.bits);
      tensors[path + ".weight_zero_point"] =
          transposed_on_host(words_of(packed, words_for(p.out, p.bits)));
    }
  }
  void add(NamedTensors floats, NamedTensors coded, const std::set<std::string>& as_i64) {
    for (auto& [path, tensor] : floats) tensor = kernels::cast(tensor, target_.dtype);
    coded.merge(floats);
    files_->add(std::move(coded), as_i64);
  }
  json config() const;

  Transformer* model_ = nullptr;
  ExportTarget target_;
  std::optional<WeightFiles> files_;
  std::map<std::string, std::vector<std::string>> groups_;  // arguments -> layers
  std::vector<std::string> ignored_;                        // modules in floating point
};

json CompressedTensorsExporter::config() const {
  json groups = json::object();
  for (const auto& [arguments, layers] : groups_) {
    // One kind of layer is named by its class, as the package itself does.
    const json targets = groups_.size() == 1 ? json::array({"Linear"}) : json(layers);
    groups[concat("group_", groups.size())] = {{"targets", targets},
                                               {"weights", json::parse(arguments)},
                                               {"input_activations", nullptr},
                                               {"output_activations", nullptr}};
  }
  json config = plain_config(*model_, target_.dtype);
  config["quantization_config"] = {{"quant_method", name()},
                                   {"format", "pack-quantized"},
                                   {"quantization_status", "compressed"},
                                   {"global_compression_ratio", nullptr},
                                   {"kv_cache_scheme", nullptr},
                                   {"ignore", ignored_},
                                   {"config_groups", groups}};
  return config;
}

[[maybe_unused]] const bool registered = register_exporter<CompressedTensorsExporter>();

}  // namespace
}  // namespace cbq
