#include "cbq/quantized_layouts.h"

#include <algorithm>
#include <map>
#include <set>

#include "cbq/exporters/layout_reader.h"
#include "cbq/quantized_folder.h"
#include "nn/encoded_layers.h"
#include "nn/families/family.h"
#include "nn/formats/json.h"
#include "quant/quantized_linear.h"
#include "tensor/runtime/notice.h"
#include "tensor/runtime/shapes_only.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

/// Layers about which config.json and the tensors disagree: how many, and the first of them.
struct Disagreements {
  int64_t count = 0;
  std::string first;
  void add(const std::string& path) {
    if (count++ == 0) first = path;
  }
};

class FolderInLayout final : public EncodedLayers {
 public:
  /// Reads config.json's section; tensors are looked at by examine().
  FolderInLayout(const fs::path& folder, Dtype dtype, Device device)
      : where_((folder / "config.json").string()),
        config_(ModelConfig::load(folder)),
        body_prefix_(family_of(config_.architecture).base_prefix()),
        dtype_(dtype),
        device_(device) {
    const json config = read_json_file(folder / "config.json");
    const json& section = json_at(config, quantization_section, where_);
    const std::string method =
        json_string(json_at(section, "quant_method", where_), "quant_method", where_);
    reader_ = layout_readers().make(layout_of(method).value_or(method));
    reader_->read_section(section, concat(where_, ": \"", quantization_section, "\""));
  }

  const ModelConfig& config() const { return config_; }

  void examine(const Transformer& shapes, const Checkpoint& checkpoint) override;
  bool encodes(const std::string& path) const override { return parameters_.contains(path); }
  bool uses(const std::string& tensor) const override;
  void fill(Block& block, const std::string& prefix, const Checkpoint& checkpoint) const override;
  /// After examine().
  ExportPlan plan(const Transformer& shapes) const;

 private:
  LayerTensors tensors_of(const std::string& path, const Linear& linear,
                          const Checkpoint& checkpoint) const {
    return {checkpoint, body_prefix_, path, linear.out_features(), linear.in_features()};
  }
  void examine_layer(const LayerTensors& layer);
  /// Codes of what is no linear layer of a block: the head, the embedding, experts.
  void refuse_other_codes(const Checkpoint& checkpoint) const;
  void report_disagreements() const;
  void give(Linear& linear, const LayerTensors& layer, const LayerCodes& codes) const;

  std::string where_;
  ModelConfig config_;
  std::string body_prefix_;
  Dtype dtype_;
  Device device_;
  std::unique_ptr<LayoutReader> reader_;
  std::map<std::string, LayerCodes> layers_;  // those with codes, by their paths
  std::set<std::string> parameters_;          // their weights
  std::set<std::string> stems_;               // what the names of their tensors begin with
  Disagreements coded_unasked_, floating_unasked_;
};

/// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.qweight".
std::string stem_of(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

void FolderInLayout::examine_layer(const LayerTensors& layer) {
  const std::string& path = layer.path();
  const bool is_asked = reader_->quantizes(path);
  if (!reader_->has_codes(layer)) {
    if (is_asked && layer.has("weight")) floating_unasked_.add(path);
    return;
  }
  if (!is_asked) coded_unasked_.add(path);
  layers_[path] = reader_->codes_of(layer);
  parameters_.insert(path + ".weight");
  for (const std::string& part : reader_->code_parts()) {
    if (layer.has(part)) stems_.insert(stem_of(layer.name_of(part)));
  }
}

std::unique_ptr<Block> shapes_of_block(const Transformer& model, int64_t number) {
  const ShapesOnly without_memory;
  return model.make_block_at(number);
}

void FolderInLayout::examine(const Transformer& shapes, const Checkpoint& checkpoint) {
  for (int64_t b = 0; b < shapes.block_count(); ++b) {
    const std::unique_ptr<Block> block = shapes_of_block(shapes, b);
    for (const NamedLinear& named : block->linears()) {
      examine_layer(tensors_of(shapes.block_prefix(b) + named.name, *named.linear, checkpoint));
    }
  }
  refuse_other_codes(checkpoint);
  if (layers_.empty()) {
    fail(checkpoint.path().string(), ": config.json says that the model is quantized (",
         reader_->method(), "), but no layer has codes; the folder is incomplete, or its weights ",
         "are in floating point, then remove \"", quantization_section, "\"");
  }
  report_disagreements();
}

void FolderInLayout::refuse_other_codes(const Checkpoint& checkpoint) const {
  const std::vector<std::string> parts = reader_->code_parts();
  for (const std::string& name : checkpoint.names()) {
    const std::string stem = stem_of(name);
    if (stems_.contains(stem)) continue;
    for (const std::string& part : parts) {
      if (name != stem + "." + part) continue;
      fail(checkpoint.path().string(), ": ", name, " says that ", stem, " is quantized; codes are ",
           "read of the linear layers of blocks alone. Take a folder that leaves it in floating ",
           "point");
    }
  }
}

void FolderInLayout::report_disagreements() const {
  const auto report = [&](const Disagreements& found, const char* config, const char* tensors) {
    if (found.count == 0) return;
    notice_once(concat("warning: ", where_, " ", config, " ", found.first, " (", found.count,
                       " such layers), and its tensors ", tensors, ", which counts"));
  };
  report(floating_unasked_, "quantizes", "are in floating point");
  report(coded_unasked_, "leaves in floating point", "are codes");
}

bool FolderInLayout::uses(const std::string& tensor) const {
  const std::string stem = stem_of(tensor);
  const std::vector<std::string> parts = reader_->parts();
  return stems_.contains(stem) &&
         std::find(parts.begin(), parts.end(), tensor.substr(stem.size() + 1)) != parts.end();
}

void FolderInLayout::give(Linear& linear, const LayerTensors& layer,
                          const LayerCodes& codes) const {
  PackedWeight packed = reader_->read(layer, codes);
  for (Tensor* part : {&packed.codes, &packed.scale, &packed.zero_point, &packed.group_index}) {
    if (part->defined()) *part = part->to(device_);
  }
  linear.weight.set_value(dequantize(packed, dtype_, device_));
  auto weight = std::make_unique<WeightQuantizer>(std::move(packed), linear.weight.value(),
                                                  codes.weight, layer.path());
  std::unique_ptr<ActivationQuantizer> input;
  if (codes.input.quantizes()) input = reader_->read_input(layer, codes, device_);
  linear.transform = std::make_shared<QuantizedTransform>(std::move(weight), std::move(input));
}

void FolderInLayout::fill(Block& block, const std::string& prefix,
                          const Checkpoint& checkpoint) const {
  for (const NamedLinear& named : block.linears()) {
    const std::string path = prefix + named.name;
    const auto codes = layers_.find(path);
    if (codes == layers_.end()) continue;
    give(*named.linear, tensors_of(path, *named.linear, checkpoint), codes->second);
  }
}

ExportPlan FolderInLayout::plan(const Transformer& shapes) const {
  ExportPlan plan;
  plan.model = config_;
  for (int64_t b = 0; b < shapes.block_count(); ++b) {
    const std::unique_ptr<Block> block = shapes_of_block(shapes, b);
    for (const NamedLinear& named : block->linears()) {
      PlannedLayer layer{.path = shapes.block_prefix(b) + named.name,
                         .out = named.linear->out_features(),
                         .in = named.linear->in_features()};
      layer.weight.bits = float_bits;
      if (const auto codes = layers_.find(layer.path); codes != layers_.end()) {
        layer.weight = codes->second.weight;
        layer.input = codes->second.input;
        layer.act_order = codes->second.packed.group_index.defined();
      }
      plan.layers.push_back(std::move(layer));
    }
  }
  return plan;
}

}  // namespace

bool is_in_foreign_layout(const fs::path& folder) {
  const std::optional<std::string> method = quantization_of(folder);
  return method && *method != quantization_method && layout_of(*method);
}

std::unique_ptr<Transformer> open_layout(const fs::path& folder, Dtype dtype, Device device) {
  return open_encoded_model(folder, dtype, device,
                            std::make_unique<FolderInLayout>(folder, dtype, device));
}

ExportPlan export_plan_of_layout(const fs::path& folder) {
  // Opened as a model, so that all headers are compared; its blocks stay on the disk.
  auto owned = std::make_unique<FolderInLayout>(folder, Dtype::f32, Device::cpu());
  const FolderInLayout& layout = *owned;
  const auto model = open_encoded_model(folder, Dtype::f32, Device::cpu(), std::move(owned));
  ExportPlan plan = layout.plan(*model);
  plan.model = model->config;
  return plan;
}

}  // namespace cbq
