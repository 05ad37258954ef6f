#include "nn/config_fields.h"

#include <algorithm>
#include <cmath>

#include "nn/formats/json.h"
#include "tensor/error.h"
#include "tensor/runtime/notice.h"

namespace cbq {

using nlohmann::json;

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
  return has(key) ? json_int(at(key), key, what_, 1, max_config_size) : fallback;
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
      notice_once(concat("warning: ", what_, ": \"", found, "\" is ", size(found, 0), ", but \"",
                         name, "\" is ", size(name, 0), "; they are two names for one size, and \"",
                         found, "\" counts, as in transformers"));
    }
    if (found == nullptr) found = name;
  }
  if (found != nullptr) return required_size(std::string(found));
  std::string list;
  for (const char* name : names) list += concat(list.empty() ? "\"" : " (or \"", name, "\"");
  fail(what_, ": ", list, names.size() > 1 ? ")" : "", " is missing");
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

void check_heads_divide(const ModelConfig& c) {
  check(c.hidden_size % c.num_heads == 0, "\"hidden_size\" (", c.hidden_size,
        ") must be a multiple of the number of attention heads (", c.num_heads, ")");
}

namespace {

bool is_filled_object(const json& value) { return value.is_object() && !value.empty(); }

std::vector<double> numbers(const ConfigFields& fields, const std::string& key) {
  fields.require(key);
  const json& list = fields.at(key);
  if (!list.is_array()) fail(fields.what(), ": \"", key, "\" must be a list of numbers");
  std::vector<double> values;
  for (const json& value : list) values.push_back(json_double(value, key, fields.what()));
  return values;
}

std::optional<double> optional_number(const ConfigFields& fields, const std::string& key) {
  if (!fields.has(key)) return std::nullopt;
  return fields.number(key, 0.0);
}

/// A scaling without what is the default, to compare two.
json essence(json scaling, const ConfigFields& fields) {
  if (!scaling.contains("rope_type")) scaling["rope_type"] = scaling.value("type", json("default"));
  if (!scaling.contains("rope_theta")) {
    scaling["rope_theta"] = fields.number("rope_theta", RopeConfig().theta);
  }
  scaling.erase("type");
  return scaling;
}

/// The object that says how positions are scaled: transformers 5 reads rope_scaling if there is
/// one, and nothing of rope_parameters then, not even its rope_theta. Null: neither is there.
const char* scaling_key(const ConfigFields& fields) {
  const json &old_style = fields.at("rope_scaling"), &new_style = fields.at("rope_parameters");
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json& value = fields.at(key);
    if (!value.is_null() && !value.is_object()) {
      fail(fields.what(), ": ", key, ": expected an object");
    }
  }
  if (!is_filled_object(old_style))
    return is_filled_object(new_style) ? "rope_parameters" : nullptr;
  if (is_filled_object(new_style) && essence(old_style, fields) != essence(new_style, fields)) {
    const bool loses_theta = !old_style.contains("rope_theta") && !fields.has("rope_theta") &&
                             new_style.contains("rope_theta") &&
                             new_style["rope_theta"] != json(RopeConfig().theta);
    notice_once(concat(
        "warning: ", fields.what(), ": \"rope_scaling\" ", old_style.dump(),
        " and \"rope_parameters\" ", new_style.dump(),
        " differ; \"rope_scaling\" counts, as in transformers",
        loses_theta ? concat(", with the default \"rope_theta\" of ", RopeConfig().theta) : "",
        ". Keep one of the two"));
  }
  return "rope_scaling";
}

constexpr const char* share_inside = "partial_rotary_factor";

/// What a family calls the share of a head that turns, and its base, at the top of config.json.
struct RopeKeys {
  const char* share = nullptr;  // null: whole heads turn
  const char* theta = "rope_theta";
};

RopeConfig read_rope_under(const ConfigFields& fields, int64_t context, double share,
                           const RopeKeys& keys) {
  RopeConfig rope;
  rope.dynamic_context = context;
  rope.theta = fields.number(keys.theta, rope.theta);
  rope.share = keys.share != nullptr ? fields.number(keys.share, share) : share;
  const char* key = scaling_key(fields);
  if (key == nullptr) return rope;
  const ConfigFields inner(fields.at(key), fields.what() + ": " + key);
  const double theta = inner.number("rope_theta", rope.theta);
  if (fields.has(keys.theta) && theta != rope.theta) {
    notice_once(concat("warning: ", inner.what(), ": \"rope_theta\" is ", theta, " here and ",
                       rope.theta, " at the top level; ", theta, " counts, as in transformers"));
  }
  rope.theta = theta;
  if (keys.share != nullptr) rope.share = inner.number(share_inside, rope.share);
  rope.type = inner.text("rope_type", inner.text("type", "default"));
  if (keys.share != nullptr && rope.type == "su") rope.type = "longrope";  // of Phi-3's first files
  if (inner.has("rope_type") && inner.has("type") && inner.text("type", "") != rope.type) {
    notice_once(concat("warning: ", inner.what(), ": \"rope_type\" is \"", rope.type,
                       "\", but \"type\" is \"", inner.text("type", ""), "\"; \"", rope.type,
                       "\" counts, as in transformers"));
  }
  if (rope.type == "default") return rope;
  for (const ConfigFields* place : {&fields, &inner}) {
    if (keys.share == nullptr && place->number(share_inside, 1.0) != 1.0) {
      fail(place->what(), ": \"partial_rotary_factor\" with the rope type \"", rope.type,
           "\" is not implemented (nor does transformers compute these families with it)");
    }
  }
  if (rope.type == "llama3" || rope.type == "yarn" || rope.type == "longrope") {
    constexpr const char* original = "original_max_position_embeddings";
    const int64_t inside = inner.size(original, context);
    rope.original_max_position_embeddings = fields.size(original, inside);
    if (inner.has(original) && rope.original_max_position_embeddings != inside) {
      notice_once(concat("warning: ", inner.what(), ": \"", original, "\" is ", inside,
                         " here and ", rope.original_max_position_embeddings,
                         " at the top level, which counts, as in transformers"));
    }
  }
  const bool may_lack_factor =
      rope.type == "longrope" || (rope.type == "yarn" && inner.contains("factor"));
  rope.factor = may_lack_factor && !inner.has("factor")
                    ? static_cast<double>(context) /
                          static_cast<double>(rope.original_max_position_embeddings)
                    : inner.required_number("factor");
  if (rope.type == "llama3") {
    rope.low_freq_factor = inner.required_number("low_freq_factor");
    rope.high_freq_factor = inner.required_number("high_freq_factor");
  } else if (rope.type == "yarn") {
    // null and 0 mean the default.
    const double fast = inner.number("beta_fast", 0.0), slow = inner.number("beta_slow", 0.0);
    if (fast != 0.0) rope.beta_fast = fast;
    if (slow != 0.0) rope.beta_slow = slow;
    rope.truncate = inner.flag("truncate", true);
    rope.mscale = optional_number(inner, "mscale");
    rope.mscale_all_dim = optional_number(inner, "mscale_all_dim");
  } else if (rope.type == "longrope") {
    rope.short_factor = numbers(inner, "short_factor");
    rope.long_factor = numbers(inner, "long_factor");
  }
  if (rope.type == "yarn" || rope.type == "longrope") {
    rope.attention_factor = optional_number(inner, "attention_factor");
  }
  return rope;
}

}  // namespace

RopeConfig read_rope(const ConfigFields& fields, int64_t context) {
  return read_rope_under(fields, context, 1.0, {});
}

RopeConfig read_partial_rope(const ConfigFields& fields, int64_t context, double share,
                             const char* share_key, const char* theta_key) {
  return read_rope_under(fields, context, share, {share_key, theta_key});
}

void write_partial_rope(json& config, const RopeConfig& rope, const char* share_key,
                        const char* theta_key) {
  const bool had_theta = config.contains("rope_theta");
  write_rope(config, rope);
  const bool is_new = config.contains("rope_parameters") && config["rope_parameters"].is_object();
  if (is_new) config["rope_parameters"][share_inside] = rope.share;
  if (!is_new || config.contains(share_key)) config[share_key] = rope.share;
  if (std::string(theta_key) == "rope_theta") return;
  if (!is_new || config.contains(theta_key)) config[theta_key] = rope.theta;
  if (!had_theta) config.erase("rope_theta");
}

void write_rope(json& config, const RopeConfig& rope) {
  const auto has_object = [&](const char* key) {
    return config.contains(key) && config[key].is_object();
  };
  const bool is_new = has_object("rope_parameters");
  const bool has_both = is_new && has_object("rope_scaling") && !config["rope_scaling"].empty();
  json inner = json::object();
  const char* key = is_new ? "rope_parameters" : "rope_scaling";
  if (has_object(key)) inner = config[key];
  if (has_both) {  // one of them says everything
    inner = config["rope_scaling"];
    config.erase("rope_scaling");
  }
  const auto write_optional = [&](const char* name, const std::optional<double>& value) {
    if (value) inner[name] = *value;
  };
  inner.erase("type");
  inner["rope_type"] = rope.type;
  // A longrope of the source without a factor takes that of the contexts.
  const bool follows_factor =
      rope.type == "longrope" && !inner.contains("factor") && inner.contains("long_factor");
  if (rope.type != "default" && !follows_factor) inner["factor"] = rope.factor;
  if (rope.type == "llama3") {
    inner["low_freq_factor"] = rope.low_freq_factor;
    inner["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.type == "yarn") {
    const RopeConfig usual;
    const auto write = [&](const char* name, const auto& value, const auto& fallback) {
      if (inner.contains(name) || value != fallback) inner[name] = value;
    };
    write("beta_fast", rope.beta_fast, usual.beta_fast);
    write("beta_slow", rope.beta_slow, usual.beta_slow);
    write("truncate", rope.truncate, usual.truncate);
    write_optional("mscale", rope.mscale);
    write_optional("mscale_all_dim", rope.mscale_all_dim);
  }
  if (rope.type == "longrope") {
    inner["short_factor"] = rope.short_factor;
    inner["long_factor"] = rope.long_factor;
  }
  write_optional("attention_factor", rope.attention_factor);
  if (rope.type == "llama3" || rope.type == "yarn" || rope.type == "longrope") {
    constexpr const char* original = "original_max_position_embeddings";
    inner[original] = rope.original_max_position_embeddings;
    if (config.contains(original)) config[original] = rope.original_max_position_embeddings;
  }
  if (is_new || inner.contains("rope_theta")) inner["rope_theta"] = rope.theta;
  if (!is_new || config.contains("rope_theta")) config["rope_theta"] = rope.theta;
  config[key] = is_new || rope.type != "default" ? inner : json();
}

void check_rope(const RopeConfig& rope, int64_t rotary_dim) {
  constexpr const char* known[] = {"default", "linear", "llama3", "yarn", "dynamic", "longrope"};
  check(std::find(std::begin(known), std::end(known), rope.type) != std::end(known),
        "unknown rope type \"", rope.type,
        "\"; known: default, linear, llama3, yarn, dynamic, longrope");
  check(rope.share > 0 && rope.share <= 1 && rotary_dim > 0 && rotary_dim % 2 == 0,
        "the rotary embedding turns ", rotary_dim, " elements of each head (a share of ",
        rope.share, "); expected an even number, and a share above 0 and up to 1");
  check(rope.theta > 0 && rope.factor > 0, "\"rope_theta\" (", rope.theta, ") and \"factor\" (",
        rope.factor, ") must be positive");
  check(rope.type != "llama3" ||
            (rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor),
        "\"low_freq_factor\" (", rope.low_freq_factor,
        ") must be above 0, and \"high_freq_factor\" (", rope.high_freq_factor,
        ") must be above \"low_freq_factor\"");
  check(rope.type != "yarn" || (rope.theta > 1 && rope.beta_fast > 0 && rope.beta_slow > 0),
        "yarn needs a \"rope_theta\" (", rope.theta, ") above 1 and positive \"beta_fast\" (",
        rope.beta_fast, ") and \"beta_slow\" (", rope.beta_slow, ")");
  check(rope.type != "dynamic" || rotary_dim > 2, "dynamic rope needs a \"head_dim\" (", rotary_dim,
        ") above 2");
  if (rope.type == "longrope") {
    const auto pairs = static_cast<size_t>(rotary_dim / 2);
    check(rope.short_factor.size() == pairs && rope.long_factor.size() == pairs,
          "\"short_factor\" (", rope.short_factor.size(), " numbers) and \"long_factor\" (",
          rope.long_factor.size(), ") must have one number for each of the ", pairs,
          " pairs of a head");
    const auto positive = [](double factor) { return factor > 0; };
    check(std::all_of(rope.short_factor.begin(), rope.short_factor.end(), positive) &&
              std::all_of(rope.long_factor.begin(), rope.long_factor.end(), positive),
          "\"short_factor\" and \"long_factor\" must be positive");
    check(rope.original_max_position_embeddings > 1, "longrope needs an ",
          "\"original_max_position_embeddings\" above 1");
  }
}

}  // namespace cbq
