// "packed": the folder that this program reads back (cbq/quantized_folder.h).
#include <algorithm>
#include <cstring>
#include <set>

#include "cbq/exporters/layer_parts.h"
#include "cbq/quantized_folder.h"
#include "cbq/quantizers.h"
#include "kernels/ops.h"
#include "quant/quantized_attention.h"
#include "tensor/runtime/program_version.h"

using nlohmann::json;

namespace cbq {
namespace {

json weight_json(const PackedWeight& packed, const WeightConfig& config) {
  json weight = {{"bits", packed.bits},
                 {"symmetric", config.symmetric},
                 {"granularity", name_of(config.granularity)},
                 {"group_size", packed.group},
                 {"shape", {packed.out, packed.in}}};
  // Scales are f32 in any case; this says which of their digits are zero.
  if (config.scale_type != ScaleType::f32) weight["scale_type"] = name_of(config.scale_type);
  if (packed.group_index.defined()) weight["group_index"] = true;
  return weight;
}

json activation_json(const ActivationConfig& config) {
  return {{"bits", config.bits},
          {"symmetric", config.symmetric},
          {"symmetric_form", name_of(config.form)},
          {"granularity", name_of(config.granularity)},
          {"dynamic", config.dynamic}};
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device::cpu()), y = b.to(Device::cpu());
  return x.bytes() == y.bytes() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

/// `t` in the half type of the checkpoint or of the model, if that changes no value, else in f32:
/// what was read as bf16 or f16 and not changed since takes as many bytes as it did there.
Tensor without_loss(const Transformer& model, const Tensor& t) {
  const Tensor full = kernels::cast(t, Dtype::f32);
  for (const Dtype dtype : {dtype_from_name(model.config.dtype), model.dtype()}) {
    if (dtype != Dtype::bf16 && dtype != Dtype::f16) continue;
    Tensor half = kernels::cast(full, dtype);
    if (same_bytes(kernels::cast(half, Dtype::f32), full)) return half;
  }
  return full;
}

/// Adds the tensors of `online` at `path`, and returns its record.
json online_json(const StoredTransform& online, const std::string& path, NamedTensors& tensors) {
  json record = online.record();
  record["kind"] = online.kind();
  for (const auto& [name, tensor] : online.tensors()) {
    tensors[path + ".online_" + name] = kernels::cast(tensor, Dtype::f32);
  }
  return record;
}

class PackedExporter final : public Exporter {
 public:
  std::string name() const override { return packed_format; }
  std::string help() const override { return "integer codes, which this program reads back"; }
  bool is_read_here() const override { return true; }
  std::string obstacle(const ExportPlan&) const override { return ""; }

  void begin(Transformer& model, const ExportTarget& target) override {
    model_ = &model;
    folder_ = target.folder;
    files_.emplace(target, model.block_count() + 1);
  }
  void add_block(int64_t block) override {
    files_->add(block_tensors(block));
    attention_ = attention_config_of(model_->block(block));
  }
  void finish() override {
    NamedTensors tensors = outer_parameters(*model_);
    for (auto& [path, tensor] : tensors) tensor = without_loss(*model_, tensor);
    files_->add(std::move(tensors));
    files_->finish();
    write_config(folder_, config());
  }

 private:
  /// A block's tensors; the layers' entries of config.json go to layers_.
  NamedTensors block_tensors(int64_t block);
  /// Those of its queries, keys and values.
  void add_attention(int64_t block, NamedTensors& tensors);
  json config();

  Transformer* model_ = nullptr;
  std::filesystem::path folder_;
  std::optional<WeightFiles> files_;
  json layers_ = json::object();
  json attention_online_ = json::object(), attention_clusters_ = json::object();  // by its path
  std::optional<ActivationConfig> attention_;
  bool has_group_index_ = false;
};

NamedTensors PackedExporter::block_tensors(int64_t block) {
  NamedTensors tensors;
  std::set<std::string> as_codes;
  for (const WindowLinear& l : linears_of(*model_, {block, 1})) {
    const LayerParts parts = parts_of(*l.linear, l.path);
    if (parts.packed) {
      layers_[l.path]["weight"] = weight_json(*parts.packed, parts.weight);
      tensors[l.path + ".codes"] = parts.packed->codes;
      tensors[l.path + ".scale"] = kernels::cast(parts.packed->scale, Dtype::f32);
      tensors[l.path + ".zero_point"] = parts.packed->zero_point;
      if (const Tensor& index = parts.packed->group_index; index.defined()) {
        tensors[l.path + ".group_index"] = index;
        has_group_index_ = true;
      }
      as_codes.insert(l.path + ".weight");
    }
    if (parts.activation) {
      layers_[l.path]["input"] = activation_json(parts.activation->config());
      if (const size_t clusters = parts.activation->clusters().size(); clusters > 0) {
        layers_[l.path]["input"]["clusters"] = clusters;
      }
      for (const auto& [name, tensor] : parts.activation->snapshot()) {
        tensors[l.path + ".input_" + name] = kernels::cast(tensor, Dtype::f32);
      }
    }
    if (l.linear->online) {
      layers_[l.path]["online"] = online_json(*l.linear->online, l.path, tensors);
    }
  }
  add_attention(block, tensors);
  for (const auto& [path, tensor] : block_parameters(*model_, block)) {
    if (!as_codes.contains(path)) tensors[path] = without_loss(*model_, tensor);
  }
  return tensors;
}

void PackedExporter::add_attention(int64_t block, NamedTensors& tensors) {
  const Block& of = model_->block(block);
  const std::string path = attention_path(model_->block_prefix(block));
  if (const QuantizedAttention* attention = of.attention_quantizers()) {
    for (const auto& [name, tensor] : attention->state()) tensors[path + "." + name] = tensor;
    for (const AttentionOperand operand : attention_operands) {
      const int64_t clusters = attention->clusters(operand);
      if (clusters > 0) attention_clusters_[path][name_of(operand)] = clusters;
    }
  }
  if (of.attention_online) {
    attention_online_[path] = online_json(*of.attention_online, path, tensors);
  }
}

json PackedExporter::config() {
  json config = plain_config(*model_, dtype_from_name(model_->config.dtype));
  const bool has_online = std::any_of(layers_.begin(), layers_.end(),
                                      [](const json& layer) { return layer.contains("online"); });
  config[quantization_section] = {
      {"quant_method", "cbq"},
      {"format_version", has_group_index_             ? quantized_format_group_index
                         : !attention_online_.empty() ? quantized_format_attention_online
                         : has_online                 ? quantized_format_online
                                                      : quantized_format},
      {"cbq_version", program_version()},
      {"layers", std::move(layers_)}};
  if (!model_->transforms.empty()) config[quantization_section]["transforms"] = model_->transforms;
  if (attention_) config[quantization_section]["attention"] = activation_json(*attention_);
  if (!attention_clusters_.empty()) {
    config[quantization_section]["attention_clusters"] = std::move(attention_clusters_);
  }
  if (!attention_online_.empty()) {
    config[quantization_section]["attention_online"] = std::move(attention_online_);
  }
  return config;
}

[[maybe_unused]] const bool registered = register_exporter<PackedExporter>();

}  // namespace
}  // namespace cbq
