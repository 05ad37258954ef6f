#include "cbq/exporters/compressed_scheme.h"

#include <algorithm>

#include "nn/formats/json.h"
#include "tensor/error.h"

using nlohmann::json;

namespace cbq {
namespace {

/// What the arguments of weights and of inputs have in common.
struct QuantizationArguments {
  int64_t bits = 8;
  bool symmetric = true, dynamic = false;
  std::string strategy;  // "" where it is not stated
  int64_t group_size = 0;
};

QuantizationArguments read_arguments(const json& section, const std::string& what) {
  QuantizationArguments arguments;
  const auto find = [&](const char* key) -> const json& { return json_find(section, key, what); };
  if (const json& type = find("type"); !type.is_null() && type != "int") {
    refuse_field(what, "type", type, "integers are read");
  }
  if (const json& bits = find("num_bits"); !bits.is_null()) {
    arguments.bits = json_int(bits, "num_bits", what, 1, 8);
  }
  if (const json& symmetric = find("symmetric"); !symmetric.is_null()) {
    arguments.symmetric = json_bool(symmetric, "symmetric", what);
  }
  if (const json& dynamic = find("dynamic"); !dynamic.is_null()) {
    if (!dynamic.is_boolean()) refuse_field(what, "dynamic", dynamic, "true and false are read");
    arguments.dynamic = dynamic.get<bool>();
  }
  if (const json& strategy = find("strategy"); !strategy.is_null()) {
    arguments.strategy = json_string(strategy, "strategy", what);
  }
  if (const json& size = find("group_size"); !size.is_null()) {
    arguments.group_size = json_int(size, "group_size", what, -1, 1 << 20);
  }
  return arguments;
}

CompressedWeights read_weights(const json& section, const std::string& what) {
  const QuantizationArguments a = read_arguments(section, what);
  if (a.dynamic) refuse_field(what, "dynamic", true, "weights have scales of their own");
  CompressedWeights weights{a.bits, a.strategy, -1, a.symmetric, false};
  if (weights.strategy.empty()) {  // follows from the group size, as in the package
    weights.strategy = a.group_size > 0 ? "group" : a.group_size < 0 ? "channel" : "tensor";
  }
  if (weights.strategy == "group") {
    if (a.group_size < 1) fail(what, ": \"group_size\" is missing, which the strategy group needs");
    weights.group_size = a.group_size;
  } else if (weights.strategy != "channel" && weights.strategy != "tensor") {
    refuse_field(what, "strategy", weights.strategy, "tensor, channel and group are read");
  }
  const json& order = json_find(section, "actorder", what);
  weights.act_order = order == "group" || order == "dynamic" || order == true;
  return weights;
}

/// s = 2 max|x| / (2^b - 1) where it is symmetric: SymmetricForm::full_range.
ActivationConfig read_inputs(const json& section, const std::string& what) {
  const QuantizationArguments a = read_arguments(section, what);
  ActivationConfig input;
  input.bits = static_cast<int>(a.bits);
  input.symmetric = a.symmetric;
  input.form = SymmetricForm::full_range;
  input.dynamic = a.dynamic;
  const std::string expected = a.dynamic ? "token" : "tensor";
  if (!a.strategy.empty() && a.strategy != expected) {
    refuse_field(what, "strategy", a.strategy,
                 a.dynamic ? "dynamic ranges of inputs are read per token"
                           : "static ranges of inputs are read per tensor");
  }
  input.granularity = a.dynamic ? Granularity::per_token : Granularity::per_tensor;
  return input;
}

/// Refuses what the folder has beside weights and inputs.
void refuse_other_parts(const json& section, const std::string& what) {
  const auto find = [&](const char* key) -> const json& { return json_find(section, key, what); };
  if (const json& cache = find("kv_cache_scheme"); !cache.is_null()) {
    refuse_field(what, "kv_cache_scheme", cache, "a quantized cache is not read");
  }
  if (const json& transforms = find("transform_config");
      !transforms.is_null() && !transforms.empty()) {
    refuse_field(what, "transform_config", transforms, "transforms of the model are not read");
  }
  const json& sparsity = find("sparsity_config");
  if (sparsity.is_null() || sparsity.empty()) return;
  const json& format = json_find(sparsity, "format", what);
  if (!format.is_null() && format != "dense") {
    refuse_field(what, "sparsity_config", sparsity, "sparse weights are not read");
  }
}

}  // namespace

LayerTarget::LayerTarget(const std::string& text, const std::string& what) : text_(text) {
  if (text.starts_with("re:")) {
    pattern_ = std::make_shared<const NamePattern>(text.substr(3), what);
  }
}

LayerTarget::Kind LayerTarget::speaks_of(const std::string& path) const {
  if (text_ == path) return Kind::path;
  if (pattern_) return pattern_->begins(path) ? Kind::pattern : Kind::none;
  return text_ == "Linear" ? Kind::every_linear : Kind::none;
}

CompressedSchemes::CompressedSchemes(const json& section, const std::string& what) : what_(what) {
  refuse_other_parts(section, what);
  std::string format;
  if (const json& stated = json_find(section, "format", what); !stated.is_null()) {
    format = json_string(stated, "format", what);
  }
  const json& groups = json_at(section, "config_groups", what);
  if (!groups.is_object()) fail(what, ": \"config_groups\" must be an object");
  for (const auto& [name, group] : groups.items()) add_group(name, group, format);
  const json& ignored = json_find(section, "ignore", what);
  if (ignored.is_null()) return;
  if (!ignored.is_array()) fail(what, ": \"ignore\" must be a list of names");
  for (const json& name : ignored) {
    ignored_.emplace_back(json_string(name, "ignore", what), what + ", \"ignore\"");
  }
}

void CompressedSchemes::add_group(const std::string& name, const json& group,
                                  const std::string& format) {
  const std::string what = concat(what_, ", group \"", name, "\"");
  if (!group.is_object()) {
    fail(what, ": expected an object; names of presets are not read, write the settings out");
  }
  const json& weights = json_find(group, "weights", what);
  if (weights.is_null()) {
    refuse_field(what, "weights", weights, "groups without quantized weights are not read");
  }
  if (const json& outputs = json_find(group, "output_activations", what); !outputs.is_null()) {
    refuse_field(what, "output_activations", outputs, "quantized outputs are not read");
  }
  CompressedScheme scheme{what, false, read_weights(weights, what + ", weights"), {}};
  if (const json& inputs = json_find(group, "input_activations", what); !inputs.is_null()) {
    scheme.input = read_inputs(inputs, what + ", input_activations");
  }
  const json& own = json_find(group, "format", what);
  const std::string layout = own.is_null() ? format : json_string(own, "format", what);
  scheme.is_packed = layout == "pack-quantized";
  if (!scheme.is_packed && layout != "int-quantized" && layout != "naive-quantized") {
    refuse_field(what, "format", layout, "pack-quantized and int-quantized are read");
  }
  const json& targets = json_at(group, "targets", what);
  if (!targets.is_array()) fail(what, ": \"targets\" must be a list of names");
  for (const json& target : targets) {
    targets_.emplace_back(LayerTarget(json_string(target, "targets", what), what), schemes_.size());
  }
  schemes_.push_back(std::move(scheme));
}

const CompressedScheme* CompressedSchemes::of(const std::string& path) const {
  LayerTarget::Kind best = LayerTarget::Kind::none;
  const CompressedScheme *found = nullptr, *other = nullptr;
  for (const auto& [target, number] : targets_) {
    const LayerTarget::Kind kind = target.speaks_of(path);
    if (kind == LayerTarget::Kind::none || kind < best) continue;
    if (kind > best) found = other = nullptr;
    const CompressedScheme* scheme = &schemes_[number];
    if (found != nullptr && found != scheme) other = found;
    found = scheme;
    best = kind;
  }
  if (other != nullptr) {
    fail(found->what, " and ", other->what, " both speak of ", path, "; name it in one of them");
  }
  return found;
}

bool CompressedSchemes::ignores(const std::string& path) const {
  return std::any_of(ignored_.begin(), ignored_.end(), [&](const LayerTarget& target) {
    return target.speaks_of(path) != LayerTarget::Kind::none;
  });
}

}  // namespace cbq
