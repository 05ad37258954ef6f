// "normalizer" of tokenizer.json: what is changed in a text before it is divided.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

/// Unicode's normal forms (Annex 15), case, stripping, replacing; and sequences of them.
class Normalizer {
 public:
  Normalizer() = default;
  /// NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, Nmt, ByteLevel,
  /// Sequence or null. Throws std::runtime_error, naming `what` and the type, for any other.
  static Normalizer from_json(const nlohmann::json& json, const std::string& what);
  /// Canonical composition alone.
  static Normalizer nfc();

  bool is_identity() const { return steps_.empty(); }
  /// Whether the result is written in the byte alphabet.
  bool has_byte_level() const { return has_byte_level_; }
  /// `text` must be UTF-8.
  std::string operator()(std::string_view text) const;

 private:
  using Step = std::function<std::string(std::string_view)>;
  void add(const nlohmann::json& json, const std::string& what);
  std::vector<Step> steps_;
  bool has_byte_level_ = false;
};

}  // namespace cbq
