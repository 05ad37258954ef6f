#include "cbq/quantized_folder.h"

#include <map>
#include <set>
#include <utility>

#include "cbq/quantizers.h"
#include "cbq/stream.h"
#include "kernels/ops.h"
#include "nn/json.h"
#include "nn/safetensors.h"
#include "quant/quantized_linear.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

constexpr const char* section_key = "quantization_config";
constexpr int64_t format_version = 1;

std::vector<WindowLinear> all_linears(Transformer& model) {
  return linears_of(model, {0, model.block_count()});
}

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

ActivationConfig activation_from_json(const json& section, const std::string& what) {
  ActivationConfig config;
  config.bits = static_cast<int>(json_int(json_at(section, "bits", what), "bits", what, 1, 15));
  config.symmetric = json_bool(json_at(section, "symmetric", what), "symmetric", what);
  config.form = symmetric_form_from_name(
      json_string(json_at(section, "symmetric_form", what), "symmetric_form", what));
  config.granularity = granularity_from_name(
      json_string(json_at(section, "granularity", what), "granularity", what));
  config.dynamic = json_bool(json_at(section, "dynamic", what), "dynamic", what);
  return config;
}

/// config.json of the floating-point model: without this or an earlier quantization section.
json plain_config(const Transformer& model, Dtype dtype) {
  ModelConfig config = model.config;
  config.dtype = name_of(dtype);
  json result = config.to_json();
  result.erase(section_key);
  return result;
}

// ---- reading a layer ----------------------------------------------------------------------------

/// A tensor of the folder, or a complaint that names layer and fault.
Tensor load_checked(const Checkpoint& checkpoint, const std::string& name, const Shape& shape,
                    Dtype dtype, Device device) {
  const std::string where = checkpoint.path().string();
  if (!checkpoint.has(name)) {
    fail(where, ": ", name, " is missing; the folder is incomplete, quantize again");
  }
  const Tensor tensor = checkpoint.load(name, device);
  if (tensor.dtype() != dtype || tensor.shape() != shape) {
    fail(where, ": ", name, " is ", cbq::name_of(tensor.dtype()), " ", to_string(tensor.shape()),
         ", config.json says ", cbq::name_of(dtype), " ", to_string(shape));
  }
  return tensor;
}

class FolderReader {
 public:
  FolderReader(const fs::path& folder, Dtype dtype, Device device)
      : where_((folder / "config.json").string()),
        config_(read_json_file(folder / "config.json")),
        checkpoint_(folder),
        dtype_(dtype),
        device_(device) {
    const json& section = json_at(config_, section_key, where_);
    const int64_t format =
        json_int(json_at(section, "format_version", where_), "format_version", where_);
    if (format != format_version) {
      fail(where_, ": format version ", format, ", known: ", format_version,
           "; read it with a newer version of this program");
    }
    layers_ = json_at(section, "layers", where_);
    if (!layers_.is_object()) fail(where_, ": \"layers\" must be an object");
    attention_ = json_find(section, "attention", where_);
  }

  std::unique_ptr<Transformer> model();

 private:
  void read_linear(const WindowLinear& l, const json& layer);
  Tensor read_weight(const WindowLinear& l, const json& section, PackedWeight& packed,
                     WeightConfig& config);
  std::unique_ptr<ActivationQuantizer> read_activation(const WindowLinear& l, const json& section);

  std::string where_;
  json config_;
  Checkpoint checkpoint_;
  Dtype dtype_;
  Device device_;
  json layers_;
  json attention_;  // null: attention computes in floating point
};

std::unique_ptr<Transformer> FolderReader::model() {
  const ModelConfig config = ModelConfig::from_json(config_, where_);
  std::unique_ptr<Transformer> model = make_model(config, dtype_, device_);
  std::set<std::string> from_codes;  // parameters
  std::set<std::string> known;       // layers
  for (const WindowLinear& l : all_linears(*model)) {
    known.insert(l.path);
    const auto at = layers_.find(l.path);
    if (at == layers_.end()) continue;
    read_linear(l, *at);
    if (at->contains("weight")) from_codes.insert(l.path + ".weight");
  }
  for (const auto& [name, layer] : layers_.items()) {
    if (!known.contains(name)) {
      fail(where_, ": quantized layer \"", name, "\" is not one of the model's linear layers");
    }
  }
  model->visit("", [&](const std::string& path, Var& p) {
    if (from_codes.contains(path)) return;
    const Tensor value = load_checked(checkpoint_, path, p.shape(), Dtype::f32, device_);
    p.set_value(kernels::cast(value, dtype_));
  });
  if (!attention_.is_null()) {
    attach_attention_quantizers(*model, {0, model->block_count()},
                                activation_from_json(attention_, where_ + ", attention"));
  }
  return model;
}

void FolderReader::read_linear(const WindowLinear& l, const json& layer) {
  std::optional<PackedWeight> packed;
  WeightConfig config{.bits = float_bits};
  if (const json& section = json_find(layer, "weight", where_); !section.is_null()) {
    packed.emplace();
    l.linear->weight.set_value(read_weight(l, section, *packed, config));
  }
  std::unique_ptr<ActivationQuantizer> activation;
  if (const json& section = json_find(layer, "input", where_); !section.is_null()) {
    activation = read_activation(l, section);
  }
  l.linear->transform =
      std::make_shared<PackedTransform>(std::move(packed), config, std::move(activation));
}

Tensor FolderReader::read_weight(const WindowLinear& l, const json& section, PackedWeight& packed,
                                 WeightConfig& config) {
  const std::string what = where_ + ", layer " + l.path;
  packed.bits = static_cast<int>(json_int(json_at(section, "bits", what), "bits", what, 1, 8));
  packed.out = l.linear->out_features();
  packed.in = l.linear->in_features();
  packed.group = json_int(json_at(section, "group_size", what), "group_size", what, 1, packed.in);
  if (packed.in % packed.group != 0) {
    fail(what, ": group size ", packed.group, " does not divide the ", packed.in, " inputs");
  }
  config.bits = packed.bits;
  config.symmetric = json_bool(json_at(section, "symmetric", what), "symmetric", what);
  config.granularity = granularity_from_name(
      json_string(json_at(section, "granularity", what), "granularity", what));
  config.group_size = config.granularity == Granularity::per_group ? packed.group : 0;
  const Shape groups = config.granularity == Granularity::per_tensor
                           ? Shape{1, 1}
                           : Shape{packed.out, packed.in / packed.group};
  const Shape bytes = {packed.out, (packed.in * packed.bits + 7) / 8};
  packed.codes = load_checked(checkpoint_, l.path + ".codes", bytes, Dtype::u8, device_);
  packed.scale = load_checked(checkpoint_, l.path + ".scale", groups, Dtype::f32, device_);
  packed.zero_point = load_checked(checkpoint_, l.path + ".zero_point", groups, Dtype::u8, device_);
  if (kernels::has_non_finite(packed.scale)) {
    fail(what, ": a scale is NaN or infinite; the file is damaged, quantize again");
  }
  return dequantize(packed, dtype_, device_);
}

std::unique_ptr<ActivationQuantizer> FolderReader::read_activation(const WindowLinear& l,
                                                                   const json& section) {
  const ActivationConfig config =
      activation_from_json(section, where_ + ", inputs of layer " + l.path);
  auto quantizer = std::make_unique<ActivationQuantizer>(config, device_, l.path);
  std::vector<std::pair<std::string, Tensor>> values;
  values.emplace_back("clip",
                      load_checked(checkpoint_, l.path + ".input_clip", {1}, Dtype::f32, device_));
  if (!config.dynamic) {
    values.emplace_back("range", load_checked(checkpoint_, l.path + ".input_range", {2}, Dtype::f32,
                                              Device::cpu()));
  }
  quantizer->restore(values);
  for (Var& variable : quantizer->variables()) variable.set_requires_grad(false);
  return quantizer;
}

}  // namespace

bool is_quantized_folder(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  if (!fs::exists(folder)) fail("model folder ", folder.string(), " does not exist");
  const json config = read_json_file(path);
  const json& section = json_find(config, section_key, path.string());
  if (section.is_null()) return false;
  const json& method = json_find(section, "quant_method", path.string());
  if (method == "cbq") return true;
  fail(path.string(), ": the model is quantized already, by ",
       method.is_string() ? method.get<std::string>() : "an unknown method",
       ", which is not read here; take the floating-point model");
}

void save_quantized(Transformer& model, const fs::path& folder) {
  std::map<std::string, Tensor> tensors;
  json layers = json::object();
  std::set<std::string> as_codes;
  for (const WindowLinear& l : all_linears(model)) {
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
  }
  model.visit("", [&](const std::string& path, Var& p) {
    if (!as_codes.contains(path)) tensors[path] = kernels::cast(p.value(), Dtype::f32);
  });
  json config = plain_config(model, Dtype::f32);
  config[section_key] = {{"quant_method", "cbq"},
                         {"format_version", format_version},
                         {"cbq_version", version},
                         {"layers", std::move(layers)}};
  if (const auto attention = attention_config_of(model)) {
    config[section_key]["attention"] = activation_json(*attention);
  }
  fs::create_directories(folder);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_text_atomically(folder / "config.json", config.dump(2) + "\n");
}

std::unique_ptr<Transformer> load_quantized(const fs::path& folder, Dtype dtype, Device device) {
  return FolderReader(folder, dtype, device).model();
}

std::unique_ptr<Transformer> load_any_model(const fs::path& folder, Dtype dtype, Device device) {
  return is_quantized_folder(folder) ? load_quantized(folder, dtype, device)
                                     : load_model(folder, dtype, device);
}

void save_dense(Transformer& model, const fs::path& folder, Dtype dtype) {
  NoGrad none;
  std::map<std::string, Tensor> tensors;
  model.visit("", [&](const std::string& path, Var& p) { tensors[path] = p.value(); });
  for (const WindowLinear& l : all_linears(model)) {
    if (l.linear->transform) {
      tensors[l.path + ".weight"] = l.linear->transform->weight(l.linear->weight).value();
    }
  }
  for (auto& [path, tensor] : tensors) tensor = kernels::cast(tensor, dtype);
  fs::create_directories(folder);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_text_atomically(folder / "config.json", plain_config(model, dtype).dump(2) + "\n");
}

}  // namespace cbq
