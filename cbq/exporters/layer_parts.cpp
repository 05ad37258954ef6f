#include "cbq/exporters/layer_parts.h"

#include <utility>

#include "cbq/quantized_folder.h"
#include "cbq/stream.h"
#include "nn/formats/atomic_file.h"
#include "nn/formats/model_files.h"
#include "quant/quantized_linear.h"

namespace fs = std::filesystem;

namespace cbq {

LayerParts parts_of(const Linear& linear, const std::string& path) {
  LayerParts parts;
  if (const QuantizedTransform* q = linear.quantizers()) {
    if (q->weight_quantizer) {
      check(q->weight_quantizer->hardened(), "export: ", path,
            " is not hardened; its reconstruction has not finished");
      parts.packed = &q->weight_quantizer->packed();
      parts.weight = q->weight_quantizer->config();
    }
    parts.activation = q->activation_quantizer.get();
  }
  if (parts.activation && !parts.activation->config().quantizes()) parts.activation = nullptr;
  return parts;
}

NamedTensors block_parameters(Transformer& model, int64_t block) {
  NamedTensors tensors;
  model.block(block).visit(model.block_prefix(block),
                           [&](const std::string& path, Var& p) { tensors[path] = p.value(); });
  return tensors;
}

NamedTensors dense_block(Transformer& model, int64_t block) {
  NoGrad none;
  NamedTensors tensors = block_parameters(model, block);
  for (const WindowLinear& l : linears_of(model, {block, 1})) {
    Tensor& weight = tensors[l.path + ".weight"];
    if (l.linear->transform) weight = l.linear->transform->weight(l.linear->weight).value();
    if (l.linear->online) weight = l.linear->online->folded_into(weight);
  }
  return tensors;
}

NamedTensors outer_parameters(Transformer& model) {
  NamedTensors tensors;
  const ParameterVisitor keep = [&](const std::string& path, Var& p) { tensors[path] = p.value(); };
  model.visit_embedding("", keep);
  model.visit_head("", keep);
  return tensors;
}

WeightFiles::WeightFiles(const ExportTarget& target, int64_t parts) : folder_(target.folder) {
  if (target.sharded) shards_.emplace(folder_, parts);
}

void WeightFiles::add(NamedTensors tensors, const StoredTypes& stored) {
  if (shards_) return shards_->add(tensors, stored);
  stored_.insert(stored.begin(), stored.end());
  all_.merge(tensors);
  check(tensors.empty(), "WeightFiles: tensor \"", tensors.empty() ? "" : tensors.begin()->first,
        "\" was added before");
}

void WeightFiles::finish() {
  if (shards_) return shards_->finish();
  fs::create_directories(folder_);
  write_safetensors_stored(folder_ / "model.safetensors", all_, {{"format", "pt"}}, stored_);
  all_.clear();
}

nlohmann::json plain_config(const Transformer& model, Dtype dtype) {
  ModelConfig config = model.config;
  config.dtype = name_of(dtype);
  nlohmann::json result = config.to_json();
  result.erase(quantization_section);
  return result;
}

void write_config(const fs::path& folder, const nlohmann::json& config) {
  write_text_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace cbq
