#include "cbq/exporters/coded_exporter.h"

#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "kernels/ops.h"

namespace cbq {

void CodedExporter::begin(Transformer& model, const ExportTarget& target) {
  model_ = &model;
  target_ = target;
  files_.emplace(target, model.block_count() + 1);
}

void CodedExporter::add_block(int64_t block) {
  NamedTensors floats = block_parameters(*model_, block);
  CodedTensors coded;
  for (const WindowLinear& l : linears_of(*model_, {block, 1})) {
    const LayerParts parts = parts_of(*l.linear, l.path);
    if (!parts.packed) {
      in_floating_point_.push_back(l.path);
      continue;
    }
    floats.erase(l.path + ".weight");
    add_layer(l.path, parts, coded);
  }
  add(std::move(floats), std::move(coded));
}

void CodedExporter::finish() {
  add(outer_parameters(*model_), {});
  files_->finish();
  const nlohmann::json quantization = section();
  nlohmann::json config = plain_config(*model_, target_.dtype);
  config[quantization_section] = quantization;
  write_config(target_.folder, config);
  add_files(target_.folder, quantization);
}

void CodedExporter::add(NamedTensors floats, CodedTensors coded) {
  for (auto& [path, tensor] : floats) tensor = kernels::cast(tensor, target_.dtype);
  coded.tensors.merge(floats);
  files_->add(std::move(coded.tensors), coded.stored);
}

}  // namespace cbq
