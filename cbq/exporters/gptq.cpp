// "gptq" and "gptq_v2": GPTQ's checkpoints (cbq/exporters/gptq_tensors.h) in both of their
// versions, for GPTQModel, transformers and vLLM.
#include "cbq/exporters/gptq_tensors.h"
#include "nn/formats/atomic_file.h"
#include "tensor/runtime/program_version.h"

using nlohmann::json;

namespace cbq {
namespace {

class GptqExporter : public CodedExporter {
 public:
  std::string obstacle(const ExportPlan& plan) const override {
    return gptq_obstacle(plan, stored_zero(), "gptq_v2");
  }

 protected:
  virtual StoredZero stored_zero() const = 0;
  void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) override {
    add_gptq_layer(path, parts, stored_zero(), true, to.tensors);
    grids_.add(path, parts.weight);
    act_order_ = act_order_ || parts.packed->group_index.defined();
  }
  json section() const override;
  void add_files(const std::filesystem::path& folder, const json& section) const override {
    write_text_atomically(folder / "quantize_config.json", section.dump(2) + "\n");
  }

 private:
  GptqGrids grids_;
  bool act_order_ = false;
};

/// Layers that differ from the most frequent grid are named one by one, as GPTQModel reads it:
/// "+:EXPRESSION" with what differs, "-:EXPRESSION" in floating point.
json GptqExporter::section() const {
  const GptqGrid& grid = grids_.usual();
  json dynamic = json::object();
  for (const auto& [layer, other] : grids_.others()) {
    dynamic["+:" + exact_expression(layer)] = {
        {"bits", other.bits}, {"group_size", other.group_size}, {"sym", other.symmetric}};
  }
  for (const std::string& layer : in_floating_point()) {
    dynamic["-:" + exact_expression(layer)] = json::object();
  }
  json section = {{"quant_method", "gptq"},
                  {"bits", grid.bits},
                  {"group_size", grid.group_size},
                  {"desc_act", act_order_},
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
