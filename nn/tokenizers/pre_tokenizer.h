// What happens to a text before byte-pair encoding: normalization, and division into words.
#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nn/tokenizers/regex.h"

namespace cbq {

/// "pre_tokenizer" of tokenizer.json: Split and ByteLevel, and Sequence of them.
class PreTokenizer {
 public:
  /// GPT-2's: its pattern, and a space in front where `add_prefix_space`.
  static PreTokenizer gpt2(bool add_prefix_space);
  /// Throws std::runtime_error, naming `what` and the type or option, for what is not supported;
  /// also where no ByteLevel is among them, because the words would not be bytes.
  static PreTokenizer from_json(const nlohmann::json& json, const std::string& what);

  /// The words of `text`, in order. They are views of `text` or of strings added to `storage`.
  std::vector<std::string_view> split(std::string_view text,
                                      std::deque<std::string>* storage) const;

 private:
  struct Step {
    std::optional<Regex> pattern;  // none: nothing is divided
    bool keeps_gaps = true;        // what lies between two matches is a word, too
    bool adds_space = false;       // in front of a word that begins with none
  };
  void add(const nlohmann::json& json, const std::string& what);
  std::vector<Step> steps_;
  bool has_byte_level_ = false;
};

/// "normalizer" of tokenizer.json: null, NFC, or a Sequence of these.
class Normalizer {
 public:
  Normalizer() = default;
  /// Throws std::runtime_error, naming `what` and the type, for any other.
  static Normalizer from_json(const nlohmann::json& json, const std::string& what);
  bool is_identity() const { return !nfc_; }
  /// Canonical composition (Unicode Annex 15). `text` must be UTF-8.
  std::string operator()(std::string_view text) const;

 private:
  bool nfc_ = false;
};

}  // namespace cbq
