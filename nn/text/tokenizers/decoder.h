// "decoder" of tokenizer.json: how tokens become text again.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace cbq {

/// ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, and sequences of them; without any,
/// tokens are joined by spaces, as the library does.
class TokenDecoder {
 public:
  TokenDecoder() = default;
  /// An unknown type is an error when something is decoded: ids do not need it. Throws
  /// std::runtime_error, naming `what`, for a known one with broken options.
  static TokenDecoder from_json(const nlohmann::json& json, const std::string& what);
  static TokenDecoder byte_level();

  /// Whether ByteLevel alone: then a token's text does not depend on its neighbours.
  bool is_byte_level() const { return is_byte_level_; }
  /// Throws std::runtime_error for a decoder that is not supported.
  std::string operator()(std::vector<std::string> tokens) const;

 private:
  using Step = std::function<void(std::vector<std::string>*)>;
  void add(const nlohmann::json& json, const std::string& what);
  std::vector<Step> steps_;
  std::string unsupported_;  // what is not
  bool is_byte_level_ = false, joins_by_spaces_ = true;
};

}  // namespace cbq
