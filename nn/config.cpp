#include "nn/config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nn/config_fields.h"
#include "nn/families/family.h"
#include "nn/formats/json.h"
#include "tensor/runtime/notice.h"

namespace cbq {
namespace {

using nlohmann::json;

struct DtypeName {
  const char* ours;
  const char* torch;
};
constexpr DtypeName dtype_names[] = {
    {"f32", "float32"}, {"bf16", "bfloat16"}, {"f16", "float16"}, {"f64", "float64"}};

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

/// The first entry of "architectures" that is known; without entries, what "model_type" names.
std::string architecture_of(const ConfigFields& fields) {
  const std::vector<std::string> known = known_architectures();
  std::string names;
  if (fields.has("architectures")) {
    const json& list = fields.at("architectures");
    if (!list.is_array() || list.empty()) {
      fail(fields.what(), ": \"architectures\" must be a list of names");
    }
    for (const json& entry : list) {
      std::string name = json_string(entry, "architectures", fields.what());
      if (name == "LLaMAForCausalLM") name = "LlamaForCausalLM";  // conversions of early 2023
      if (std::find(known.begin(), known.end(), name) != known.end()) return name;
      names += (names.empty() ? "\"" : ", \"") + name + "\"";
    }
  } else if (fields.has("model_type")) {
    const std::string type = fields.text("model_type", "");
    for (const std::string& one : known) {
      if (family_of(one).model_type() == type) return one;
    }
    fail(fields.what(), ": no architecture, and \"model_type\" is \"", type,
         "\"; known: ", joined(known));
  }
  fail(fields.what(), ": ", names.empty() ? "no architecture" : "unknown architecture " + names,
       "; known: ", joined(known));
}

/// "float32" for torch.float32; empty where the field is absent or says "auto".
std::string torch_name(const ConfigFields& fields, const char* key) {
  std::string name = fields.text(key, "");
  if (name.starts_with("torch.")) name = name.substr(6);
  return name == "auto" ? "" : name;
}

std::string dtype_from_torch(const ConfigFields& fields) {
  const std::string preferred = torch_name(fields, "dtype");
  const std::string old_style = torch_name(fields, "torch_dtype");
  if (!preferred.empty() && !old_style.empty() && preferred != old_style) {
    notice_once(concat("warning: ", fields.what(), ": \"dtype\" is \"", preferred,
                       "\", but \"torch_dtype\" is \"", old_style, "\"; \"", preferred,
                       "\" counts, as in transformers"));
  }
  const std::string name = preferred.empty() ? old_style : preferred;
  if (name.empty()) return "f32";
  for (const DtypeName& dtype : dtype_names) {
    if (name == dtype.torch) return dtype.ours;
  }
  fail(fields.what(), ": unknown weight dtype \"", name,
       "\"; known: float32, bfloat16, float16, float64");
}

/// Removes the numbers that JSON has no word for, which Python's json reads and writes.
void erase_non_finite(json& value) {
  if (value.is_object()) {
    for (auto at = value.begin(); at != value.end();) {
      const bool is_finite = !at->is_number_float() || std::isfinite(at->get<double>());
      if (is_finite) erase_non_finite(*at);
      at = is_finite ? std::next(at) : value.erase(at);
    }
  } else if (value.is_array()) {
    for (json& element : value) erase_non_finite(element);
  }
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

}  // namespace

ModelConfig ModelConfig::load(const std::filesystem::path& path) {
  std::error_code error;
  const bool is_folder = std::filesystem::is_directory(path, error);
  const std::filesystem::path file = is_folder ? path / "config.json" : path;
  return from_json(read_json_file(file, size_t{1} << 24, JsonDialect::python), file.string());
}

ModelConfig ModelConfig::from_json(const json& config, const std::string& what) {
  const ConfigFields fields(config, what);
  ModelConfig c;
  c.architecture = architecture_of(fields);
  const Family& family = family_of(c.architecture);
  c.model_type = fields.text("model_type", family.model_type());
  c.vocab_size = fields.required_size("vocab_size");
  family.read_config(fields, c);  // its sizes, and its defaults for what follows
  c.tie_word_embeddings = fields.flag("tie_word_embeddings", c.tie_word_embeddings);
  if (config.contains("bos_token_id")) {
    const std::vector<int64_t> bos = token_ids(config["bos_token_id"], "bos_token_id", what);
    c.bos_token_id = bos.empty() ? -1 : bos.front();
  }
  if (config.contains("eos_token_id")) {
    c.eos_token_ids = token_ids(config["eos_token_id"], "eos_token_id", what);
  }
  c.dtype = dtype_from_torch(fields);
  json source = config;
  erase_non_finite(source);
  c.source = source.dump();
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
  check(num_heads % num_kv_heads == 0, "\"num_attention_heads\" (", num_heads,
        ") must be a multiple of \"num_key_value_heads\" (", num_kv_heads, ")");
  check(sliding_window >= 0, "\"sliding_window\" (", sliding_window, ") must not be negative");
  family_of(architecture).validate(*this);
}

int64_t ModelConfig::context() const {
  int64_t longest = max_position_embeddings;
  if (rope.type == "yarn" || rope.type == "dynamic") {
    const int64_t original =
        rope.type == "yarn" ? rope.original_max_position_embeddings : rope.dynamic_context;
    const double stretched = rope.factor * static_cast<double>(original);
    longest = std::max(longest, static_cast<int64_t>(std::min(stretched, 0x1p26)));
  }
  return sliding_window > 0 ? std::min(sliding_window, longest) : longest;
}

int64_t ModelConfig::rotary_dim() const {
  const bool is_share = rope.share > 0.0 && rope.share <= 1.0;
  return is_share ? static_cast<int64_t>(static_cast<double>(head_dim) * rope.share) : 0;
}

bool ModelConfig::states_dtype() const {
  if (source.empty()) return true;
  const json config = parse_json(source, "ModelConfig::source");
  const ConfigFields fields(config, "ModelConfig::source");
  return !torch_name(fields, "dtype").empty() || !torch_name(fields, "torch_dtype").empty();
}

json ModelConfig::to_json() const {
  json config = source.empty() ? json::object() : parse_json(source, "ModelConfig::source");
  config["architectures"] = json::array({architecture});
  config["model_type"] = model_type;
  config["vocab_size"] = vocab_size;
  family_of(architecture).write_config(*this, config);
  config["tie_word_embeddings"] = tie_word_embeddings;
  config["bos_token_id"] = bos_token_id >= 0 ? json(bos_token_id) : json();
  config["eos_token_id"] = eos_token_ids.size() == 1 ? json(eos_token_ids[0]) : json(eos_token_ids);
  if (eos_token_ids.empty()) config["eos_token_id"] = nullptr;
  const auto name = std::find_if(std::begin(dtype_names), std::end(dtype_names),
                                 [&](const DtypeName& d) { return dtype == d.ours; });
  check(name != std::end(dtype_names), "ModelConfig: unknown weight dtype \"", dtype, "\"");
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = name->torch;
  }
  if (!config.contains("dtype") && !config.contains("torch_dtype")) {
    config["torch_dtype"] = name->torch;
  }
  return config;
}

}  // namespace cbq
