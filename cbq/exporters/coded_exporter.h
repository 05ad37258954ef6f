// What the formats of PyTorch programs share: a folder in which layers with codes have tensors of
// the format's own, everything else is as in the floating-point folder, and config.json has a
// section "quantization_config".
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cbq/exporters/layer_parts.h"

namespace cbq {

/// Tensors by their names in the folder.
struct CodedTensors {
  NamedTensors tensors;
  StoredTypes stored;  // of those that are stored in a type of the format alone
};

class CodedExporter : public Exporter {
 public:
  std::vector<Dtype> dtypes() const override { return {Dtype::f32, Dtype::bf16, Dtype::f16}; }
  /// By the reader of the layout (cbq/exporters/layout_reader.h).
  bool is_read_here() const override { return true; }
  /// These programs compute a weight in the type of the folder.
  bool rounds(const ExportPlan&, Dtype computed, Dtype written) const override {
    return computed != Dtype::f32 || written != Dtype::f32;
  }
  void begin(Transformer& model, const ExportTarget& target) override;
  void add_block(int64_t block) override;
  void finish() override;

 protected:
  /// Adds what stands in the place of the weight of the layer at `path`.
  virtual void add_layer(const std::string& path, const LayerParts& parts, CodedTensors& to) = 0;
  /// "quantization_config", once all layers were added.
  virtual nlohmann::json section() const = 0;
  /// Further files of the folder.
  virtual void add_files(const std::filesystem::path& /*folder*/,
                         const nlohmann::json& /*section*/) const {}

  Transformer& model() const { return *model_; }
  /// Of the folder's weights in floating point.
  Dtype dtype() const { return target_.dtype; }
  /// Paths of the layers without codes, in order.
  const std::vector<std::string>& in_floating_point() const { return in_floating_point_; }

 private:
  void add(NamedTensors floats, CodedTensors coded);

  Transformer* model_ = nullptr;
  ExportTarget target_;
  std::optional<WeightFiles> files_;
  std::vector<std::string> in_floating_point_;
};

}  // namespace cbq
