// open_quantized, load_quantized: a quantized folder -> Transformer (cbq/quantized_folder.h).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "cbq/quantized_folder.h"
#include "cbq/quantized_layouts.h"
#include "cbq/quantizers.h"
#include "kernels/ops.h"
#include "nn/formats/json.h"
#include "nn/formats/safetensors.h"
#include "quant/quantized_attention.h"
#include "quant/quantized_linear.h"
#include "quant/transforms/stored_transforms.h"
#include "tensor/runtime/shapes_only.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace cbq {
namespace {

/// Calls `f`. What it finds wrong is the file's fault here, so `what` stands in front of it.
template <class F>
auto blaming(const std::string& what, F&& f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    fail(what, ": ", error.what());
  }
}

/// `parse` of the text that stands at `key`.
template <class Parse>
auto named_value(const json& section, const char* key, const std::string& what, Parse&& parse) {
  const std::string text = json_string(json_at(section, key, what), key, what);
  return blaming(what + ": \"" + key + "\"", [&] { return parse(text); });
}

ActivationConfig activation_from_json(const json& section, const std::string& what) {
  ActivationConfig config;
  config.bits = static_cast<int>(json_int(json_at(section, "bits", what), "bits", what, 1, 15));
  config.symmetric = json_bool(json_at(section, "symmetric", what), "symmetric", what);
  config.form = named_value(section, "symmetric_form", what, symmetric_form_from_name);
  config.granularity = named_value(section, "granularity", what, granularity_from_name);
  config.dynamic = json_bool(json_at(section, "dynamic", what), "dynamic", what);
  blaming(what, [&] { check_activation_config(config, "activations"); });
  return config;
}

/// A complaint, naming tensor and fault, unless the folder has it with this shape and one of these
/// dtypes.
void check_entry(const Checkpoint& checkpoint, const std::string& name, const Shape& shape,
                 std::initializer_list<Dtype> dtypes) {
  if (!checkpoint.has(name)) {
    fail(checkpoint.path(), ": ", name, " is missing; the folder is incomplete, quantize again");
  }
  const Dtype found = checkpoint.file_of(name).dtype(name);
  const bool fits = std::find(dtypes.begin(), dtypes.end(), found) != dtypes.end();
  if (!fits || checkpoint.info(name).shape != shape) {
    fail(checkpoint.path(), ": ", name, " is ", found, " ", checkpoint.info(name).shape,
         ", config.json says ", *dtypes.begin(), " ", shape);
  }
}

/// The dtypes of parameters that are not quantized.
constexpr std::initializer_list<Dtype> float_dtypes = {Dtype::f32, Dtype::bf16, Dtype::f16};

/// What config.json says of a quantized weight, and what its tensors must then be.
struct WeightLayout {
  PackedWeight packed;  // without tensors
  WeightConfig config;
  Shape codes, groups;
  bool has_group_index = false;
};

/// The same of a quantized input.
struct InputLayout {
  ActivationConfig config;
  int64_t clusters = 0;  // 0: one range
  Shape ranges() const { return clusters > 0 ? Shape{clusters, 2} : Shape{2}; }
};

class FolderReader : public BlockSource {
 public:
  FolderReader(const fs::path& folder, Dtype dtype, Device device)
      : where_((folder / "config.json").string()),
        config_(read_json_file(folder / "config.json")),
        checkpoint_(folder),
        dtype_(dtype),
        device_(device) {
    const json& section = json_at(config_, quantization_section, where_);
    const int64_t format =
        json_int(json_at(section, "format_version", where_), "format_version", where_);
    if (format < quantized_format || format > newest_quantized_format) {
      fail(where_, ": format version ", format, ", known: ", quantized_format, " to ",
           newest_quantized_format, "; read it with a newer version of this program");
    }
    layers_ = json_at(section, "layers", where_);
    if (!layers_.is_object()) fail(where_, ": \"layers\" must be an object");
    if (const json& names = json_find(section, "transforms", where_); !names.is_null()) {
      if (!names.is_array()) fail(where_, ": \"transforms\" must be a list");
      for (const json& name : names) transforms_.push_back(json_string(name, "transforms", where_));
    }
    if (const json& attention = json_find(section, "attention", where_); !attention.is_null()) {
      attention_ = activation_from_json(attention, where_ + ", attention");
    }
    attention_clusters_ = json_find(section, "attention_clusters", where_);
    if (!attention_clusters_.is_null() && !attention_clusters_.is_object()) {
      fail(where_, ": \"attention_clusters\" must be an object");
    }
    attention_online_ = json_find(section, "attention_online", where_);
    if (!attention_online_.is_null() && !attention_online_.is_object()) {
      fail(where_, ": \"attention_online\" must be an object");
    }
    if (!attention_online_.is_null()) head_dim_ = model_config().head_dim;
    if (attention_clusters_.is_null()) return;
    const ModelConfig model = model_config();
    query_width_ = model.num_heads * model.head_dim;
    key_width_ = model.num_kv_heads * model.head_dim;
  }

  /// Transformer::transforms of the model that was saved.
  const std::vector<std::string>& transforms() const { return transforms_; }
  ModelConfig model_config() const { return ModelConfig::from_json(config_, where_); }
  /// Before anything is allocated: every layer has tensors of its own.
  void check_count(int64_t layers) const {
    const auto tensors = static_cast<int64_t>(checkpoint_.names().size());
    if (layers <= tensors) return;
    fail(where_, ": ", layers, " layers, but the checkpoint has only ", tensors, " tensors");
  }
  /// Names, shapes and dtypes of all tensors, from config.json and the headers alone.
  void check_headers(Transformer& model) const;
  /// After check_headers().
  ExportPlan plan(Transformer& model) const;
  /// Reads parameters that are not quantized.
  ParameterVisitor reader() const {
    return [this](const std::string& path, Var& p) {
      check_entry(checkpoint_, path, p.shape(), float_dtypes);
      p.set_value(kernels::cast(checkpoint_.load(path, device_), dtype_));
    };
  }
  void fill(Block& block, const std::string& prefix) const override;

 private:
  /// config.json's part `part` ("weight" or "input") of a layer; null where it has none.
  const json& section_of(const std::string& layer, const char* part) const;
  WeightLayout layout_of(const std::string& layer, const Linear& linear, const json& section) const;
  /// Of a layer of so many inputs.
  InputLayout input_layout(const std::string& layer, const json& section, int64_t width) const;
  /// Whether the clip ratio of a layer's input is other than 1: its logarithm is stored. A plan is
  /// made without memory of tensors, so its bytes are looked at. After check_headers().
  bool has_clip_ratio(const std::string& layer) const;
  void check_block(Block& block, const std::string& prefix) const;
  /// How many clusters of channels an operand of a block's attention has; 0: none.
  int64_t attention_clusters_of(const std::string& prefix, AttentionOperand operand) const;
  int64_t attention_width(AttentionOperand operand) const {
    return operand == AttentionOperand::queries ? query_width_ : key_width_;
  }
  void read_attention(Block& block, const std::string& prefix) const;
  /// The record of a block's online transform of queries and keys; null where it has none.
  const json& attention_online_of(const std::string& prefix) const;
  /// The online transform at `path`, which is applied to rows of `width`: its tensors are compared
  /// with the headers, or it is read.
  void check_online(const std::string& path, const json& section, int64_t width) const;
  std::shared_ptr<const StoredTransform> read_online(const std::string& path, const json& section,
                                                     int64_t width) const;
  std::unique_ptr<StoredTransformReader> online_reader(const std::string& path,
                                                       const json& section) const;
  Tensor read_weight(const std::string& layer, WeightLayout& layout) const;
  std::unique_ptr<ActivationQuantizer> read_input(const std::string& layer,
                                                  const InputLayout& layout, int64_t width) const;
  /// Throws std::runtime_error, naming `what`, unless the sizes of clusters make up so many
  /// channels.
  void check_clusters(const Tensor& sizes, int64_t width, const std::string& what) const;

  std::string where_;
  json config_;
  Checkpoint checkpoint_;
  Dtype dtype_;
  Device device_;
  json layers_;
  std::vector<std::string> transforms_;
  std::optional<ActivationConfig> attention_;   // none: attention computes in floating point
  json attention_clusters_, attention_online_;  // by path of the attention; or null
  int64_t head_dim_ = 0;                        // where there is attention_online_
  int64_t query_width_ = 0, key_width_ = 0;     // where there are attention_clusters_
};

const json& FolderReader::section_of(const std::string& layer, const char* part) const {
  static const json none;
  const auto at = layers_.find(layer);
  return at == layers_.end() ? none : json_find(*at, part, where_);
}

WeightLayout FolderReader::layout_of(const std::string& layer, const Linear& linear,
                                     const json& section) const {
  const std::string what = where_ + ", layer " + layer;
  WeightLayout layout;
  PackedWeight& packed = layout.packed;
  packed.bits = static_cast<int>(json_int(json_at(section, "bits", what), "bits", what, 1, 8));
  packed.out = linear.out_features();
  packed.in = linear.in_features();
  packed.group = json_int(json_at(section, "group_size", what), "group_size", what, 1, packed.in);
  if (packed.in % packed.group != 0) {
    fail(what, ": group size ", packed.group, " does not divide the ", packed.in, " inputs");
  }
  WeightConfig& config = layout.config;
  config.bits = packed.bits;
  config.symmetric = json_bool(json_at(section, "symmetric", what), "symmetric", what);
  config.granularity = named_value(section, "granularity", what, granularity_from_name);
  if (section.contains("scale_type")) {
    config.scale_type = named_value(section, "scale_type", what, scale_type_from_name);
  }
  config.group_size = config.granularity == Granularity::per_group ? packed.group : 0;
  blaming(what, [&] { check_weight_config(config, "weight", packed.in); });
  layout.groups = config.granularity == Granularity::per_tensor
                      ? Shape{1, 1}
                      : Shape{packed.out, packed.in / packed.group};
  layout.codes = {packed.out, (packed.in * packed.bits + 7) / 8};
  if (const json& index = json_find(section, "group_index", what); !index.is_null()) {
    layout.has_group_index = json_bool(index, "group_index", what);
  }
  return layout;
}

void FolderReader::check_block(Block& block, const std::string& prefix) const {
  std::set<std::string> from_codes;  // parameters
  for (const NamedLinear& named : block.linears()) {
    const std::string layer = prefix + named.name;
    if (const json& section = section_of(layer, "weight"); !section.is_null()) {
      const WeightLayout layout = layout_of(layer, *named.linear, section);
      check_entry(checkpoint_, layer + ".codes", layout.codes, {Dtype::u8});
      check_entry(checkpoint_, layer + ".scale", layout.groups, {Dtype::f32});
      check_entry(checkpoint_, layer + ".zero_point", layout.groups, {Dtype::u8});
      if (layout.has_group_index) {
        check_entry(checkpoint_, layer + ".group_index", {layout.packed.in}, {Dtype::i32});
      }
      from_codes.insert(layer + ".weight");
    }
    if (const json& section = section_of(layer, "input"); !section.is_null()) {
      const InputLayout layout = input_layout(layer, section, named.linear->in_features());
      check_entry(checkpoint_, layer + ".input_clip", {1}, {Dtype::f32});
      if (!layout.config.dynamic) {
        check_entry(checkpoint_, layer + ".input_range", layout.ranges(), {Dtype::f32});
      }
      if (layout.clusters > 0) {
        check_entry(checkpoint_, layer + ".input_clusters", {layout.clusters}, {Dtype::f32});
      }
    }
    if (const json& section = section_of(layer, "online"); !section.is_null()) {
      check_online(layer, section, named.linear->in_features());
    }
  }
  for (const AttentionOperand operand : attention_operands) {
    const int64_t clusters = attention_clusters_of(prefix, operand);
    if (clusters == 0) continue;
    const std::string path = attention_path(prefix, operand);
    check_entry(checkpoint_, path + ".range", {clusters, 2}, {Dtype::f32});
    check_entry(checkpoint_, path + ".clusters", {clusters}, {Dtype::f32});
  }
  if (const json& section = attention_online_of(prefix); !section.is_null()) {
    check_online(attention_path(prefix), section, head_dim_);
  }
  block.visit(prefix, [&](const std::string& path, Var& p) {
    if (!from_codes.contains(path)) check_entry(checkpoint_, path, p.shape(), float_dtypes);
  });
}

const json& FolderReader::attention_online_of(const std::string& prefix) const {
  static const json none;
  const auto at = attention_online_.find(attention_path(prefix));
  return at == attention_online_.end() ? none : *at;
}

std::unique_ptr<StoredTransformReader> FolderReader::online_reader(const std::string& path,
                                                                   const json& section) const {
  return named_value(section, "kind", where_ + ", layer " + path,
                     [](const std::string& kind) { return stored_transforms().make(kind); });
}

void FolderReader::check_online(const std::string& path, const json& section, int64_t width) const {
  const StoredRecord record{section, where_ + ", layer " + path, width};
  for (const auto& [name, shape] : online_reader(path, section)->shapes(record)) {
    check_entry(checkpoint_, path + ".online_" + name, shape, {Dtype::f32});
  }
}

std::shared_ptr<const StoredTransform> FolderReader::read_online(const std::string& path,
                                                                 const json& section,
                                                                 int64_t width) const {
  const auto load = [&](const std::string& name) {
    return checkpoint_.load(path + ".online_" + name);
  };
  return online_reader(path, section)
      ->read({section, where_ + ", layer " + path, width}, load, device_);
}

void FolderReader::check_headers(Transformer& model) const {
  std::set<std::string> known, attentions;  // layers, and what stands at attention_path
  for (int64_t b = 0; b < model.block_count(); ++b) {
    const std::unique_ptr<Block> block = model.make_block_at(b);
    for (const NamedLinear& named : block->linears())
      known.insert(model.block_prefix(b) + named.name);
    attentions.insert(attention_path(model.block_prefix(b)));
  }
  for (const auto& [key, section] : {std::pair{"attention_online", &attention_online_},
                                     {"attention_clusters", &attention_clusters_}}) {
    for (const auto& [name, record] : section->items()) {
      if (!attentions.contains(name)) {
        fail(where_, ": \"", key, "\" speaks of \"", name, "\", which the model does not have");
      }
    }
  }
  for (const auto& [name, layer] : layers_.items()) {
    if (!known.contains(name)) {
      fail(where_, ": quantized layer \"", name, "\" is not one of the model's linear layers");
    }
  }
  const ParameterVisitor check_shape = [&](const std::string& path, Var& p) {
    check_entry(checkpoint_, path, p.shape(), float_dtypes);
  };
  model.visit_embedding("", check_shape);
  for (int64_t b = 0; b < model.block_count(); ++b) {
    check_block(*model.make_block_at(b), model.block_prefix(b));
  }
  model.visit_head("", check_shape);
}

ExportPlan FolderReader::plan(Transformer& model) const {
  ExportPlan plan;
  plan.model = model_config();
  plan.attention = attention_;
  for (int64_t b = 0; b < model.block_count(); ++b) {
    const std::unique_ptr<Block> block = model.make_block_at(b);
    for (const NamedLinear& named : block->linears()) {
      PlannedLayer layer{.path = model.block_prefix(b) + named.name,
                         .out = named.linear->out_features(),
                         .in = named.linear->in_features()};
      layer.weight.bits = float_bits;
      if (const json& section = section_of(layer.path, "weight"); !section.is_null()) {
        const WeightLayout layout = layout_of(layer.path, *named.linear, section);
        layer.weight = layout.config;
        layer.act_order = layout.has_group_index;
      }
      if (const json& section = section_of(layer.path, "input"); !section.is_null()) {
        layer.input = input_layout(layer.path, section, layer.in).config;
        layer.clipped = layer.input.dynamic && has_clip_ratio(layer.path);
      }
      if (const json& section = section_of(layer.path, "online"); !section.is_null()) {
        layer.online = json_string(json_at(section, "kind", where_), "kind", where_);
      }
      plan.layers.push_back(std::move(layer));
    }
    if (const json& section = attention_online_of(model.block_prefix(b)); !section.is_null()) {
      plan.attention_online = json_string(json_at(section, "kind", where_), "kind", where_);
    }
  }
  return plan;
}

void FolderReader::fill(Block& block, const std::string& prefix) const {
  std::set<std::string> from_codes;  // parameters
  for (const NamedLinear& named : block.linears()) {
    const std::string layer = prefix + named.name;
    if (!layers_.contains(layer)) continue;
    std::unique_ptr<WeightQuantizer> weight;
    if (const json& section = section_of(layer, "weight"); !section.is_null()) {
      WeightLayout layout = layout_of(layer, *named.linear, section);
      named.linear->weight.set_value(read_weight(layer, layout));
      weight = std::make_unique<WeightQuantizer>(layout.packed, named.linear->weight.value(),
                                                 layout.config, layer);
      from_codes.insert(layer + ".weight");
    }
    std::unique_ptr<ActivationQuantizer> activation;
    if (const json& section = section_of(layer, "input"); !section.is_null()) {
      const int64_t width = named.linear->in_features();
      activation = read_input(layer, input_layout(layer, section, width), width);
    }
    if (const json& section = section_of(layer, "online"); !section.is_null()) {
      named.linear->online = read_online(layer, section, named.linear->in_features());
    }
    if (!weight && !activation) continue;
    named.linear->transform =
        std::make_shared<QuantizedTransform>(std::move(weight), std::move(activation));
  }
  block.visit(prefix, [&, read = reader()](const std::string& path, Var& p) {
    if (!from_codes.contains(path)) read(path, p);
  });
  if (const json& section = attention_online_of(prefix); !section.is_null()) {
    block.attention_online = read_online(attention_path(prefix), section, head_dim_);
  }
  if (attention_) read_attention(block, prefix);
}

int64_t FolderReader::attention_clusters_of(const std::string& prefix,
                                            AttentionOperand operand) const {
  const auto at = attention_clusters_.find(attention_path(prefix));
  if (at == attention_clusters_.end()) return 0;
  const json& clusters = json_find(*at, name_of(operand), where_);
  if (clusters.is_null()) return 0;
  if (!attention_ || attention_->granularity != Granularity::per_cluster) {
    fail(where_, ": \"attention_clusters\" without ranges of attention per cluster");
  }
  return json_int(clusters, attention_path(prefix, operand), where_, 1, 1 << 20);
}

void FolderReader::read_attention(Block& block, const std::string& prefix) const {
  auto attention = std::make_shared<QuantizedAttention>(*attention_, device_, prefix);
  std::vector<std::pair<std::string, Tensor>> state;
  for (const AttentionOperand operand : attention_operands) {
    if (attention_clusters_of(prefix, operand) == 0) continue;
    for (const char* part : {".range", ".clusters"}) {
      state.emplace_back(concat(name_of(operand), part),
                         checkpoint_.load(attention_path(prefix, operand) + part));
    }
    check_clusters(state.back().second, attention_width(operand), attention_path(prefix, operand));
  }
  blaming(where_, [&] { attention->restore(state); });
  block.attention_transform = std::move(attention);
}

Tensor FolderReader::read_weight(const std::string& layer, WeightLayout& layout) const {
  PackedWeight& packed = layout.packed;
  packed.codes = checkpoint_.load(layer + ".codes", device_);
  packed.scale = checkpoint_.load(layer + ".scale", device_);
  packed.zero_point = checkpoint_.load(layer + ".zero_point", device_);
  if (layout.has_group_index) {
    packed.group_index = checkpoint_.load(layer + ".group_index", device_);
    const int64_t groups = packed.in / packed.group;
    for (const int32_t of : packed.group_index.to_vector<int32_t>()) {
      if (of >= 0 && of < groups) continue;
      fail(where_, ", layer ", layer, ": an input is of group ", of, ", there are ", groups,
           "; the file is damaged, quantize again");
    }
  }
  if (kernels::has_non_finite(packed.scale)) {
    fail(where_, ", layer ", layer,
         ": a scale is NaN or infinite; the file is damaged, quantize again");
  }
  return dequantize(packed, dtype_, device_);
}

InputLayout FolderReader::input_layout(const std::string& layer, const json& section,
                                       int64_t width) const {
  const std::string what = where_ + ", inputs of layer " + layer;
  InputLayout layout{activation_from_json(section, what)};
  if (const json& clusters = json_find(section, "clusters", what); !clusters.is_null()) {
    layout.clusters = json_int(clusters, "clusters", what, 1, width);
    if (layout.config.granularity != Granularity::per_cluster) {
      fail(what, ": clusters have ranges with granularity per_cluster, and it is ",
           layout.config.granularity);
    }
  }
  return layout;
}

bool FolderReader::has_clip_ratio(const std::string& layer) const {
  const std::string name = layer + ".input_clip";
  float logarithm = 0.0f;
  std::memcpy(&logarithm, checkpoint_.file_of(name).bytes(name).data(), sizeof logarithm);
  return logarithm != 0.0f;
}

void FolderReader::check_clusters(const Tensor& sizes, int64_t width,
                                  const std::string& what) const {
  double channels = 0.0;
  bool counts = true;
  for (const double size : sizes.to_vector<double>()) {
    counts = counts && size >= 1.0 && size == std::floor(size);
    channels += size;
  }
  if (!counts || channels != static_cast<double>(width)) {
    fail(where_, ", ", what, ": the clusters do not make up the ", width,
         " channels; the file is damaged, quantize again");
  }
}

std::unique_ptr<ActivationQuantizer> FolderReader::read_input(const std::string& layer,
                                                              const InputLayout& layout,
                                                              int64_t width) const {
  auto quantizer = std::make_unique<ActivationQuantizer>(layout.config, device_, layer);
  std::vector<std::pair<std::string, Tensor>> values;
  values.emplace_back("clip", checkpoint_.load(layer + ".input_clip", device_));
  if (!layout.config.dynamic) {
    values.emplace_back("range", checkpoint_.load(layer + ".input_range"));
  }
  if (layout.clusters > 0) {
    values.emplace_back("clusters", checkpoint_.load(layer + ".input_clusters"));
    check_clusters(values.back().second, width, "inputs of layer " + layer);
  }
  blaming(where_, [&] { quantizer->restore(values); });
  for (Var& variable : quantizer->variables()) variable.set_requires_grad(false);
  return quantizer;
}

/// The folder's model without memory, after the folder was checked against it: nobody has compared
/// config.json's sizes with the files before.
std::unique_ptr<Transformer> checked_shapes(const FolderReader& reader) {
  const ModelConfig config = reader.model_config();
  reader.check_count(config.num_layers);
  const ShapesOnly without_memory;
  std::unique_ptr<Transformer> shapes = make_without_blocks(config, Dtype::f32, Device::cpu());
  shapes->open_blocks(config.num_layers, nullptr);
  reader.check_headers(*shapes);
  return shapes;
}

}  // namespace

ExportPlan export_plan_of(const fs::path& folder) {
  if (is_in_foreign_layout(folder)) return export_plan_of_layout(folder);
  const FolderReader reader(folder, Dtype::f32, Device::cpu());
  const std::unique_ptr<Transformer> model = checked_shapes(reader);
  const ShapesOnly without_memory;
  return reader.plan(*model);
}

std::unique_ptr<Transformer> open_quantized(const fs::path& folder, Dtype dtype, Device device) {
  if (is_in_foreign_layout(folder)) return open_layout(folder, dtype, device);
  auto owned = std::make_unique<FolderReader>(folder, dtype, device);
  const FolderReader& reader = *owned;
  const ModelConfig config = reader.model_config();
  checked_shapes(reader);
  std::unique_ptr<Transformer> model = make_without_blocks(config, dtype, device);
  model->transforms = reader.transforms();
  model->open_blocks(config.num_layers, std::move(owned));
  model->visit_embedding("", reader.reader());
  model->visit_head("", reader.reader());
  return model;
}

std::unique_ptr<Transformer> load_quantized(const fs::path& folder, Dtype dtype, Device device) {
  std::unique_ptr<Transformer> model = open_quantized(folder, dtype, device);
  model->load_all_blocks();
  return model;
}

std::unique_ptr<Transformer> open_any_model(const fs::path& folder, Dtype dtype, Device device) {
  return is_quantized_folder(folder) ? open_quantized(folder, dtype, device)
                                     : open_model(folder, dtype, device);
}

std::unique_ptr<Transformer> load_any_model(const fs::path& folder, Dtype dtype, Device device) {
  std::unique_ptr<Transformer> model = open_any_model(folder, dtype, device);
  model->load_all_blocks();
  return model;
}

}  // namespace cbq
