// "gptq" and "gptq_v2": GPTQ's checkpoints (cbq/exporters/gptq_tensors.h) in both of their
// versions, for GPTQModel, transformers and vLLM.
#include <algorithm>

#include "cbq/exporters/gptq_tensors.h"
#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "kernels/ops.h"
#include "nn/formats/atomic_file.h"
#include "tensor/runtime/program_version.h"

using nlohmann::json;

namespace cbq {
namespace {

class GptqExporter : public Exporter {
 public:
  std::vector<Dtype> dtypes() const override { return {Dtype::f32, Dtype::bf16, Dtype::f16}; }
  std::string obstacle(const ExportPlan& plan) const override {
    return gptq_obstacle(plan, stored_zero(), "gptq_v2");
  }
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
    for (const WindowLinear& l : linears_of(*model_, {block, 1})) {
      const LayerParts parts = parts_of(*l.linear, l.path);
      if (!parts.packed) {
        in_floating_point_.push_back(l.path);
        continue;
      }
      floats.erase(l.path + ".weight");
      add_gptq_layer(l.path, parts, stored_zero(), true, coded);
      grids_[gptq_grid_of(parts.weight)].push_back(l.path);
    }
    add(std::move(floats), std::move(coded));
  }
  void finish() override {
    add(outer_parameters(*model_), {});
    files_->finish();
    const json section = quantization();
    json config = plain_config(*model_, target_.dtype);
    config[quantization_section] = section;
    write_config(target_.folder, config);
    write_text_atomically(target_.folder / "quantize_config.json", section.dump(2) + "\n");
  }

 protected:
  virtual StoredZero stored_zero() const = 0;

 private:
  void add(NamedTensors floats, NamedTensors coded) {
    for (auto& [path, tensor] : floats) tensor = kernels::cast(tensor, target_.dtype);
    coded.merge(floats);
    files_->add(std::move(coded));
  }
  json quantization() const;

  Transformer* model_ = nullptr;
  ExportTarget target_;
  std::optional<WeightFiles> files_;
  std::map<GptqGrid, std::vector<std::string>> grids_;  // -> layers
  std::vector<std::string> in_floating_point_;
};

/// Layers that differ from the most frequent grid are named one by one, as GPTQModel reads it:
/// "+:EXPRESSION" with what differs, "-:EXPRESSION" in floating point.
json GptqExporter::quantization() const {
  const auto usual = std::max_element(
      grids_.begin(), grids_.end(),
      [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  const GptqGrid& grid = usual->first;
  json dynamic = json::object();
  for (const auto& [other, layers] : grids_) {
    if (other == grid) continue;
    for (const std::string& layer : layers) {
      dynamic["+:" + exact_expression(layer)] = {
          {"bits", other.bits}, {"group_size", other.group_size}, {"sym", other.symmetric}};
    }
  }
  for (const std::string& layer : in_floating_point_) {
    dynamic["-:" + exact_expression(layer)] = json::object();
  }
  json section = {{"quant_method", "gptq"},
                  {"bits", grid.bits},
                  {"group_size", grid.group_size},
                  {"desc_act", false},
                  {"sym", grid.symmetric},
                  {"lm_head", false},
                  {"checkpoint_format", name()},
                  {"pack_dtype", "int32"},
                  {"true_sequential", true},
                  {"meta", {{"quantizer", {concat("cbq:", program_version())}}}}};
  if (!dynamic.empty()) section["dynamic"] = dynamic;
  return section;
}

class GptqFirst final : public GptqExporter {
 public:
  std::string name() const override { return "gptq"; }
  std::string help() const override {
    return "symmetric integer codes for GPTQModel, transformers and vLLM (zero points less one)";
  }

 protected:
  StoredZero stored_zero() const override { return StoredZero::minus_one; }
};

class GptqSecond final : public GptqExporter {
 public:
  std::string name() const override { return "gptq_v2"; }
  std::string help() const override {
    return "integer codes for GPTQModel, zero points as they are";
  }

 protected:
  StoredZero stored_zero() const override { return StoredZero::as_is; }
};

[[maybe_unused]] const bool registered =
    register_exporter<GptqFirst>() && register_exporter<GptqSecond>();

}  // namespace
}  // namespace cbq
