// Typed access to a config.json, for the families' readers and writers (nn/families/).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "nn/config.h"

namespace cbq {

/// The largest extent that a model's configuration may have: larger than any model's by orders of
/// magnitude, and products of two fit 63 bits.
inline constexpr int64_t max_config_size = int64_t{1} << 26;

/// Spellings of one field, the preferred one first.
using FieldNames = std::initializer_list<const char*>;

/// Fields with defaults; absent and null are the same. Every error is a std::runtime_error that
/// names the file, the field, what was expected and what came.
class ConfigFields {
 public:
  /// `what` names the origin; throws unless `object` is a JSON object. Both must outlive this.
  ConfigFields(const nlohmann::json& object, std::string what);

  const std::string& what() const { return what_; }
  /// Null when it is absent.
  const nlohmann::json& at(const std::string& key) const;
  bool has(const std::string& key) const { return !at(key).is_null(); }
  /// True for null, too.
  bool contains(const std::string& key) const { return object_.contains(key); }
  /// Throws unless the field is there.
  void require(const std::string& key) const;

  /// An extent: an integer from 1 to 2^26, so that products of two fit 63 bits.
  int64_t size(const std::string& key, int64_t fallback) const;
  int64_t required_size(const std::string& key) const;
  /// A size that has several spellings, the one that counts in transformers 5 first. A notice names
  /// two that disagree.
  int64_t required_size(FieldNames names) const;
  double number(const std::string& key, double fallback) const;
  double required_number(const std::string& key) const;
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;

 private:
  const nlohmann::json& object_;
  std::string what_;
};

/// Writes a field of several spellings under those that are there already, else under the first.
void write_field(nlohmann::json& config, FieldNames names, int64_t value);

/// Throws std::invalid_argument unless the heads divide "hidden_size" evenly.
void check_heads_divide(const ModelConfig& config);

/// rope_theta with rope_scaling, or rope_parameters; where config.json has both, rope_scaling
/// counts, and a notice says so. `context`: what "max_position_embeddings" says.
RopeConfig read_rope(const ConfigFields& fields, int64_t context);
/// The same of a family whose heads may turn in part: "partial_rotary_factor", `share` where it is
/// not said. `share_key` and `theta_key`: what the family calls it, and "rope_theta", at the top.
RopeConfig read_partial_rope(const ConfigFields& fields, int64_t context, double share,
                             const char* share_key = "partial_rotary_factor",
                             const char* theta_key = "rope_theta");
/// In the spelling that `config` has already; where it has both, as rope_parameters alone.
void write_rope(nlohmann::json& config, const RopeConfig& rope);
void write_partial_rope(nlohmann::json& config, const RopeConfig& rope,
                        const char* share_key = "partial_rotary_factor",
                        const char* theta_key = "rope_theta");
/// Throws std::invalid_argument for a type that is not known and for impossible factors.
/// `rotary_dim`: elements of a head that turn.
void check_rope(const RopeConfig& rope, int64_t rotary_dim);

}  // namespace cbq
