// "dense": a Hugging Face folder of the model whose linear weights are s (q - z).
#include "cbq/exporters/layer_parts.h"
#include "kernels/ops.h"

namespace cbq {
namespace {

/// Other programs load it as they load any model. An online transform T becomes a part of the
/// weight, W T.
class DenseExporter final : public Exporter {
 public:
  std::string name() const override { return "dense"; }
  std::string help() const override { return "a Hugging Face folder of dequantized weights"; }
  std::vector<Dtype> dtypes() const override { return {Dtype::f32, Dtype::bf16, Dtype::f16}; }
  bool is_read_here() const override { return true; }
  std::string obstacle(const ExportPlan& plan) const override {
    if (!plan.quantizes_activations()) return "";
    return "it stores weights alone, so the quantization of activations would be lost (with "
           "--abits 16 there is none)";
  }
  bool rounds(const ExportPlan& result, Dtype computed, Dtype written) const override {
    // W T is rounded, too.
    return computed != written ||
           result.first_layer([](const PlannedLayer& l) { return l.online != ""; }) != nullptr;
  }

  void begin(Transformer& model, const ExportTarget& target) override {
    model_ = &model;
    target_ = target;
    files_.emplace(target, model.block_count() + 1);
  }
  void add_block(int64_t block) override { add(dense_block(*model_, block)); }
  void finish() override {
    add(outer_parameters(*model_));
    files_->finish();
    write_config(target_.folder, plain_config(*model_, target_.dtype));
  }

 private:
  void add(NamedTensors tensors) {
    for (auto& [path, tensor] : tensors) {
      tensor = kernels::cast(as_stored(model_->config, path, tensor), target_.dtype);
    }
    files_->add(std::move(tensors));
  }

  Transformer* model_ = nullptr;
  ExportTarget target_;
  std::optional<WeightFiles> files_;
};

[[maybe_unused]] const bool registered = register_exporter<DenseExporter>();

}  // namespace
}  // namespace cbq
