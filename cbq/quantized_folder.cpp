#include "cbq/quantized_folder.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "cbq/quantizers.h"
#include "cbq/stream.h"
#include "kernels/ops.h"
#include "nn/json.h"
#include "nn/safetensors.h"
#include "quant/quantized_linear.h"
#include "tensor/program_version.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

using Tensors = std::map<std::string, Tensor>;

/// What the two kinds of quantized linears have in common.
struct LayerParts {
  const PackedWeight* packed = nullptr;
  WeightConfig weight;
  const ActivationQuantizer* activation = nullptr;
};

LayerParts parts_of(const WindowLinear& l) {
  LayerParts parts;
  if (const auto* loaded = dynamic_cast<const PackedTransform*>(l.linear->transform.get())) {
    if (loaded->packed_weight) parts.packed = &*loaded->packed_weight;
    parts.weight = loaded->weight_config;
    parts.activation = loaded->activation_quantizer.get();
  } else if (const QuantizedTransform* q = l.quantizers()) {
    if (q->weight_quantizer) {
      check(q->weight_quantizer->hardened(), "save_quantized: ", l.path,
            " is not hardened; its reconstruction has not finished");
      parts.packed = &q->weight_quantizer->packed();
      parts.weight = q->weight_quantizer->config();
    }
    parts.activation = q->activation_quantizer.get();
  }
  if (parts.activation && !parts.activation->config().quantizes()) parts.activation = nullptr;
  return parts;
}

// ---- config.json --------------------------------------------------------------------------------

json weight_json(const PackedWeight& packed, const WeightConfig& config) {
  return {{"bits", packed.bits},
          {"symmetric", config.symmetric},
          {"granularity", name_of(config.granularity)},
          {"group_size", packed.group},
          {"shape", {packed.out, packed.in}}};
}

json activation_json(const ActivationConfig& config) {
  return {{"bits", config.bits},
          {"symmetric", config.symmetric},
          {"symmetric_form", name_of(config.form)},
          {"granularity", name_of(config.granularity)},
          {"dynamic", config.dynamic}};
}

/// config.json of the floating-point model: without this or an earlier quantization section.
json plain_config(const Transformer& model, Dtype dtype) {
  ModelConfig config = model.config;
  config.dtype = name_of(dtype);
  json result = config.to_json();
  result.erase(quantization_section);
  return result;
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

/// What a folder gets of a block: tensors, and the layers' entries of config.json.
Tensors block_tensors(Transformer& model, int64_t block, json& layers) {
  Tensors tensors;
  std::set<std::string> as_codes;
  for (const WindowLinear& l : linears_of(model, {block, 1})) {
    const LayerParts parts = parts_of(l);
    if (parts.packed) {
      layers[l.path]["weight"] = weight_json(*parts.packed, parts.weight);
      tensors[l.path + ".codes"] = parts.packed->codes;
      tensors[l.path + ".scale"] = kernels::cast(parts.packed->scale, Dtype::f32);
      tensors[l.path + ".zero_point"] = parts.packed->zero_point;
      as_codes.insert(l.path + ".weight");
    }
    if (parts.activation) {
      layers[l.path]["input"] = activation_json(parts.activation->config());
      for (const auto& [name, tensor] : parts.activation->snapshot()) {
        tensors[l.path + ".input_" + name] = kernels::cast(tensor, Dtype::f32);
      }
    }
    if (const StoredTransform* online = l.linear->online.get()) {
      json& record = layers[l.path]["online"];
      record = online->record();
      record["kind"] = online->kind();
      for (const auto& [name, tensor] : online->tensors()) {
        tensors[l.path + ".online_" + name] = kernels::cast(tensor, Dtype::f32);
      }
    }
  }
  model.block(block).visit(model.block_prefix(block), [&](const std::string& path, Var& p) {
    if (!as_codes.contains(path)) tensors[path] = without_loss(model, p.value());
  });
  return tensors;
}

/// Embedding, final norm and head, in `dtype`, or without loss.
Tensors outer_tensors(Transformer& model, std::optional<Dtype> dtype) {
  Tensors tensors;
  const ParameterVisitor keep = [&](const std::string& path, Var& p) {
    tensors[path] = dtype ? kernels::cast(p.value(), *dtype) : without_loss(model, p.value());
  };
  model.visit_embedding("", keep);
  model.visit_head("", keep);
  return tensors;
}

void write_config(const Transformer& model, const fs::path& folder, json layers,
                  const std::optional<ActivationConfig>& attention) {
  json config = plain_config(model, dtype_from_name(model.config.dtype));
  const bool has_online = std::any_of(layers.begin(), layers.end(),
                                      [](const json& layer) { return layer.contains("online"); });
  config[quantization_section] = {
      {"quant_method", "cbq"},
      {"format_version", has_online ? quantized_format_online : quantized_format},
      {"cbq_version", program_version()},
      {"layers", std::move(layers)}};
  if (!model.transforms.empty()) config[quantization_section]["transforms"] = model.transforms;
  if (attention) config[quantization_section]["attention"] = activation_json(*attention);
  write_text_atomically(folder / "config.json", config.dump(2) + "\n");
}

/// A block's parameters with weights s (q - z).
Tensors dense_block(Transformer& model, int64_t block, Dtype dtype) {
  NoGrad none;
  Tensors tensors;
  model.block(block).visit(model.block_prefix(block),
                           [&](const std::string& path, Var& p) { tensors[path] = p.value(); });
  for (const WindowLinear& l : linears_of(model, {block, 1})) {
    Tensor& weight = tensors[l.path + ".weight"];
    if (l.linear->transform) weight = l.linear->transform->weight(l.linear->weight).value();
    if (l.linear->online) weight = l.linear->online->folded_into(weight);
  }
  for (auto& [path, tensor] : tensors) tensor = kernels::cast(tensor, dtype);
  return tensors;
}

}  // namespace

bool is_quantized_folder(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) fail("model folder ", folder.string(), " does not exist");
  const json config = read_json_file(path);
  const json& section = json_find(config, quantization_section, path.string());
  if (section.is_null()) return false;
  const json& method = json_find(section, "quant_method", path.string());
  if (method == "cbq") return true;
  fail(path.string(), ": the model is quantized already, by ",
       method.is_string() ? method.get<std::string>() : "an unknown method",
       ", which is not read here; take the floating-point model");
}

QuantizedFolderWriter::QuantizedFolderWriter(Transformer& model, fs::path folder)
    : model_(model), folder_(std::move(folder)), shards_(folder_, model.block_count() + 1) {}

void QuantizedFolderWriter::add_block(int64_t block) {
  shards_.add(block_tensors(model_, block, layers_));
  attention_ = attention_config_of(model_.block(block));
}

void QuantizedFolderWriter::finish() {
  shards_.add(outer_tensors(model_, std::nullopt));
  shards_.finish();
  write_config(model_, folder_, std::move(layers_), attention_);
}

void save_quantized(Transformer& model, const fs::path& folder, const Poll& poll) {
  if (model.on_demand()) {
    QuantizedFolderWriter writer(model, folder);
    for (int64_t b = 0; b < model.block_count(); ++b) {
      if (poll) poll();
      const LoadedBlock loaded(model, b);
      writer.add_block(b);
    }
    writer.finish();
    return;
  }
  Tensors tensors = outer_tensors(model, std::nullopt);
  json layers = json::object();
  for (int64_t b = 0; b < model.block_count(); ++b) {
    if (poll) poll();
    tensors.merge(block_tensors(model, b, layers));
  }
  fs::create_directories(folder);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_config(model, folder, std::move(layers),
               model.block_count() > 0 ? attention_config_of(model.block(0)) : std::nullopt);
}

void save_dense(Transformer& model, const fs::path& folder, Dtype dtype, const Poll& poll) {
  if (model.on_demand()) {
    ShardedWriter shards(folder, model.block_count() + 1);
    for (int64_t b = 0; b < model.block_count(); ++b) {
      if (poll) poll();
      const LoadedBlock loaded(model, b);
      shards.add(dense_block(model, b, dtype));
    }
    shards.add(outer_tensors(model, dtype));
    shards.finish();
  } else {
    Tensors tensors = outer_tensors(model, dtype);
    for (int64_t b = 0; b < model.block_count(); ++b) {
      if (poll) poll();
      tensors.merge(dense_block(model, b, dtype));
    }
    fs::create_directories(folder);
    write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  }
  write_text_atomically(folder / "config.json", plain_config(model, dtype).dump(2) + "\n");
}

}  // namespace cbq
