#include "nn/config.h"

#include <algorithm>
#include <limits>

#include "nn/families/family.h"
#include "nn/json.h"

namespace cbq {
namespace {

using nlohmann::json;

// Larger than any model by orders of magnitude, small enough that products of two fit 63 bits.
constexpr int64_t max_size = int64_t{1} << 26;

struct DtypeName {
  const char* ours;
  const char* torch;
};
constexpr DtypeName dtype_names[] = {
    {"f32", "float32"}, {"bf16", "bfloat16"}, {"f16", "float16"}, {"f64", "float64"}};

// Typed access with defaults; absent and null are the same.
class Fields {
 public:
  Fields(const json& object, std::string what) : object_(object), what_(std::move(what)) {
    if (!object.is_object()) fail(what_, ": expected an object");
  }
  const std::string& what() const { return what_; }
  const json& at(const std::string& key) const { return json_find(object_, key, what_); }
  bool has(const std::string& key) const { return !at(key).is_null(); }
  int64_t size(const std::string& key, int64_t fallback) const {
    return has(key) ? json_int(at(key), key, what_, 1, max_size) : fallback;
  }
  int64_t required_size(const std::string& key) const {
    require(key);
    return size(key, 0);
  }
  double number(const std::string& key, double fallback) const {
    return has(key) ? json_double(at(key), key, what_) : fallback;
  }
  double required_number(const std::string& key) const {
    require(key);
    return number(key, 0.0);
  }
  bool flag(const std::string& key, bool fallback) const {
    return has(key) ? json_bool(at(key), key, what_) : fallback;
  }
  std::string text(const std::string& key, const std::string& fallback) const {
    return has(key) ? json_string(at(key), key, what_) : fallback;
  }
  void require(const std::string& key) const {
    if (!has(key)) fail(what_, ": \"", key, "\" is missing");
  }

 private:
  const json& object_;
  std::string what_;
};

std::string architecture_of(const Fields& fields) {
  std::string name = fields.text("model_type", "") == "llama" ? "LlamaForCausalLM" : "";
  if (fields.has("architectures")) {
    const json& list = fields.at("architectures");
    if (!list.is_array() || list.size() != 1) {
      fail(fields.what(), ": \"architectures\" must be a list of one name");
    }
    name = json_string(list[0], "architectures", fields.what());
  }
  if (name == "LLaMAForCausalLM") name = "LlamaForCausalLM";  // conversions of early 2023
  const std::vector<std::string> known = known_architectures();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    std::string list;
    for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
    fail(fields.what(), ": ",
         name.empty() ? "no architecture" : "unknown architecture \"" + name + "\"",
         "; known: ", list);
  }
  return name;
}

std::string dtype_from_torch(const Fields& fields) {
  std::string name = fields.text("dtype", fields.text("torch_dtype", "float32"));
  if (name.starts_with("torch.")) name = name.substr(6);
  for (const DtypeName& dtype : dtype_names) {
    if (name == dtype.torch) return dtype.ours;
  }
  fail(fields.what(), ": unknown weight dtype \"", name,
       "\"; known: float32, bfloat16, float16, float64");
}

std::vector<int64_t> token_ids(const json& value, const std::string& key, const std::string& what) {
  std::vector<int64_t> ids;
  const auto add = [&](const json& id) {
    const int64_t n = json_int(id, key, what, -1, std::numeric_limits<int32_t>::max());
    if (n >= 0) ids.push_back(n);
  };
  if (value.is_array()) {
    for (const json& id : value) add(id);
  } else if (!value.is_null()) {
    add(value);
  }
  return ids;
}

RopeConfig rope_from(const json& config, const Fields& fields) {
  RopeConfig rope;
  const bool is_new = fields.has("rope_parameters");
  const char* key = is_new ? "rope_parameters" : "rope_scaling";
  rope.theta = fields.number("rope_theta", rope.theta);
  if (!fields.has(key)) return rope;
  const Fields inner(config.at(key), fields.what() + ": " + key);
  const double theta = inner.number("rope_theta", rope.theta);
  if (fields.has("rope_theta") && theta != rope.theta) {
    fail(inner.what(), ": \"rope_theta\" is ", theta, " here and ", rope.theta,
         " at the top level");
  }
  rope.theta = theta;
  rope.type = inner.text("rope_type", inner.text("type", "default"));
  if (rope.type != "default") rope.factor = inner.required_number("factor");
  if (rope.type == "llama3") {
    rope.low_freq_factor = inner.required_number("low_freq_factor");
    rope.high_freq_factor = inner.required_number("high_freq_factor");
    rope.original_max_position_embeddings = inner.required_size("original_max_position_embeddings");
  }
  return rope;
}

void write_rope(json& config, const RopeConfig& rope) {
  const bool is_new = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  json inner = json::object();
  const char* key = is_new ? "rope_parameters" : "rope_scaling";
  if (config.contains(key) && config[key].is_object()) inner = config[key];
  inner.erase("type");
  inner["rope_type"] = rope.type;
  if (rope.type != "default") inner["factor"] = rope.factor;
  if (rope.type == "llama3") {
    inner["low_freq_factor"] = rope.low_freq_factor;
    inner["high_freq_factor"] = rope.high_freq_factor;
    inner["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  if (is_new) inner["rope_theta"] = rope.theta;
  if (!is_new || config.contains("rope_theta")) config["rope_theta"] = rope.theta;
  config[key] = is_new || rope.type != "default" ? inner : json();
}

}  // namespace

ModelConfig ModelConfig::load(const std::filesystem::path& path) {
  std::error_code error;
  const bool is_folder = std::filesystem::is_directory(path, error);
  const std::filesystem::path file = is_folder ? path / "config.json" : path;
  return from_json(read_json_file(file, size_t{1} << 24), file.string());
}

ModelConfig ModelConfig::from_json(const json& config, const std::string& what) {
  const Fields fields(config, what);
  ModelConfig c;
  c.architecture = architecture_of(fields);
  c.model_type = fields.text("model_type", c.model_type);
  c.vocab_size = fields.required_size("vocab_size");
  c.hidden_size = fields.required_size("hidden_size");
  c.intermediate_size = fields.required_size("intermediate_size");
  c.num_layers = fields.required_size("num_hidden_layers");
  c.num_heads = fields.required_size("num_attention_heads");
  c.num_kv_heads = fields.size("num_key_value_heads", c.num_heads);
  c.head_dim = fields.size("head_dim", c.hidden_size / c.num_heads);
  c.max_position_embeddings = fields.size("max_position_embeddings", c.max_position_embeddings);
  c.rms_norm_eps = fields.number("rms_norm_eps", c.rms_norm_eps);
  c.hidden_act = fields.text("hidden_act", c.hidden_act);
  c.rope = rope_from(config, fields);
  c.attention_bias = fields.flag("attention_bias", c.attention_bias);
  c.mlp_bias = fields.flag("mlp_bias", c.mlp_bias);
  c.tie_word_embeddings = fields.flag("tie_word_embeddings", c.tie_word_embeddings);
  if (config.contains("bos_token_id")) {
    const std::vector<int64_t> bos = token_ids(config["bos_token_id"], "bos_token_id", what);
    c.bos_token_id = bos.empty() ? -1 : bos.front();
  }
  if (config.contains("eos_token_id")) {
    c.eos_token_ids = token_ids(config["eos_token_id"], "eos_token_id", what);
  }
  c.dtype = dtype_from_torch(fields);
  c.source = config.dump();
  try {
    c.validate();
  } catch (const std::invalid_argument& error) {
    fail(what, ": ", error.what());
  }
  return c;
}

void ModelConfig::validate() const {
  check(vocab_size > 0 && hidden_size > 0 && intermediate_size > 0 && num_layers > 0 &&
            num_heads > 0 && num_kv_heads > 0 && max_position_embeddings > 0,
        "all sizes of a model must be positive");
  check(hidden_size % num_heads == 0, "\"hidden_size\" (", hidden_size,
        ") must be a multiple of \"num_attention_heads\" (", num_heads, ")");
  check(num_heads % num_kv_heads == 0, "\"num_attention_heads\" (", num_heads,
        ") must be a multiple of \"num_key_value_heads\" (", num_kv_heads, ")");
  check(head_dim > 0 && head_dim % 2 == 0, "\"head_dim\" (", head_dim,
        ") must be even for rotary embedding");
  check(hidden_act == "silu" || hidden_act == "swish", "unknown \"hidden_act\" \"", hidden_act,
        "\"; known: silu");
  check(rms_norm_eps >= 0, "\"rms_norm_eps\" (", rms_norm_eps, ") must not be negative");
  check(rope.type == "default" || rope.type == "linear" || rope.type == "llama3",
        "unknown rope type \"", rope.type, "\"; known: default, linear, llama3");
  check(rope.theta > 0 && rope.factor > 0, "\"rope_theta\" (", rope.theta, ") and \"factor\" (",
        rope.factor, ") must be positive");
  check(rope.type != "llama3" ||
            (rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor),
        "\"high_freq_factor\" (", rope.high_freq_factor, ") must exceed \"low_freq_factor\" (",
        rope.low_freq_factor, "), and both 0");
}

json ModelConfig::to_json() const {
  json config = source.empty() ? json::object() : parse_json(source, "ModelConfig::source");
  config["architectures"] = json::array({architecture});
  config["model_type"] = model_type;
  config["vocab_size"] = vocab_size;
  config["hidden_size"] = hidden_size;
  config["intermediate_size"] = intermediate_size;
  config["num_hidden_layers"] = num_layers;
  config["num_attention_heads"] = num_heads;
  config["num_key_value_heads"] = num_kv_heads;
  config["head_dim"] = head_dim;
  config["max_position_embeddings"] = max_position_embeddings;
  config["rms_norm_eps"] = rms_norm_eps;
  config["hidden_act"] = hidden_act;
  write_rope(config, rope);
  config["attention_bias"] = attention_bias;
  config["mlp_bias"] = mlp_bias;
  config["tie_word_embeddings"] = tie_word_embeddings;
  config["bos_token_id"] = bos_token_id >= 0 ? json(bos_token_id) : json();
  config["eos_token_id"] = eos_token_ids.size() == 1 ? json(eos_token_ids[0]) : json(eos_token_ids);
  if (eos_token_ids.empty()) config["eos_token_id"] = nullptr;
  const auto name = std::find_if(std::begin(dtype_names), std::end(dtype_names),
                                 [&](const DtypeName& d) { return dtype == d.ours; });
  check(name != std::end(dtype_names), "ModelConfig: unknown weight dtype \"", dtype, "\"");
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name->torch;
  return config;
}

}  // namespace cbq
