// "gguf-dense": llama.cpp's file with the dequantized weights in floating point, for results whose
// grid no block format holds.
#include "cbq/exporters/gguf_file.h"
#include "cbq/stream.h"

namespace cbq {
namespace {

class GgufDenseExporter final : public Exporter {
 public:
  std::string name() const override { return "gguf-dense"; }
  std::string help() const override { return "dequantized weights for llama.cpp"; }
  std::vector<Dtype> dtypes() const override { return {Dtype::f16, Dtype::bf16, Dtype::f32}; }
  std::string obstacle(const ExportPlan& plan) const override { return gguf_model_obstacle(plan); }
  bool rounds(const ExportPlan& result, Dtype computed, Dtype written) const override {
    return computed != written ||
           result.first_layer([](const PlannedLayer& l) { return l.online != ""; }) != nullptr;
  }

  void begin(Transformer& model, const ExportTarget& target) override {
    model_ = &model;
    file_.emplace(model, target);
  }
  void add_block(int64_t block) override {
    for (const auto& [path, values] : dense_block(*model_, block)) file_->add(path, values);
  }
  void finish() override {
    for (const auto& [path, values] : outer_parameters(*model_)) file_->add(path, values);
    file_->finish();
  }

 private:
  Transformer* model_ = nullptr;
  std::optional<GgufModelFile> file_;
};

[[maybe_unused]] const bool registered = register_exporter<GgufDenseExporter>();

}  // namespace
}  // namespace cbq
