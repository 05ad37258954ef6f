#include "nn/config_fields.h"

#include "nn/json.h"
#include "tensor/error.h"

namespace cbq {

using nlohmann::json;

namespace {
constexpr int64_t max_size = int64_t{1} << 26;  // larger than any model by orders of magnitude
}

ConfigFields::ConfigFields(const json& object, std::string what)
    : object_(object), what_(std::move(what)) {
  if (!object.is_object()) fail(what_, ": expected an object");
}
const json& ConfigFields::at(const std::string& key) const {
  return json_find(object_, key, what_);
}
void ConfigFields::require(const std::string& key) const {
  if (!has(key)) fail(what_, ": \"", key, "\" is missing");
}
int64_t ConfigFields::size(const std::string& key, int64_t fallback) const {
  return has(key) ? json_int(at(key), key, what_, 1, max_size) : fallback;
}
int64_t ConfigFields::required_size(const std::string& key) const {
  require(key);
  return size(key, 0);
}
int64_t ConfigFields::required_size(FieldNames names) const {
  const char* found = nullptr;
  for (const char* name : names) {
    if (!has(name)) continue;
    if (found != nullptr && size(name, 0) != size(found, 0)) {
      fail(what_, ": \"", found, "\" is ", size(found, 0), ", but \"", name, "\" is ",
           size(name, 0), "; they are two names for one thing");
    }
    if (found == nullptr) found = name;
  }
  return required_size(std::string(found != nullptr ? found : *names.begin()));
}
double ConfigFields::number(const std::string& key, double fallback) const {
  return has(key) ? json_double(at(key), key, what_) : fallback;
}
double ConfigFields::required_number(const std::string& key) const {
  require(key);
  return number(key, 0.0);
}
bool ConfigFields::flag(const std::string& key, bool fallback) const {
  return has(key) ? json_bool(at(key), key, what_) : fallback;
}
std::string ConfigFields::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? json_string(at(key), key, what_) : fallback;
}

void write_field(json& config, FieldNames names, int64_t value) {
  bool is_written = false;
  for (const char* name : names) {
    if (!config.contains(name) || config[name].is_null()) continue;
    config[name] = value;
    is_written = true;
  }
  if (!is_written) config[*names.begin()] = value;
}

RopeConfig read_rope(const ConfigFields& fields) {
  RopeConfig rope;
  const char* key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  rope.theta = fields.number("rope_theta", rope.theta);
  if (!fields.has(key)) return rope;
  const ConfigFields inner(fields.at(key), fields.what() + ": " + key);
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

void check_rope(const RopeConfig& rope) {
  check(rope.type == "default" || rope.type == "linear" || rope.type == "llama3",
        "unknown rope type \"", rope.type, "\"; known: default, linear, llama3");
  check(rope.theta > 0 && rope.factor > 0, "\"rope_theta\" (", rope.theta, ") and \"factor\" (",
        rope.factor, ") must be positive");
  check(rope.type != "llama3" ||
            (rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor),
        "\"high_freq_factor\" (", rope.high_freq_factor, ") must exceed \"low_freq_factor\" (",
        rope.low_freq_factor, "), and both 0");
}

}  // namespace cbq
