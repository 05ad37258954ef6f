// "pre_tokenizer" of tokenizer.json: how a text is divided into words before byte-pair encoding.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nn/text/tokenizers/splitter.h"

namespace cbq {

/// A text and its words.
struct Words {
  std::string text;
  std::vector<Span> spans;
  /// Whether the first word stands at the very beginning of what is tokenized (Metaspace, "first").
  bool begins_text = false;
};

/// ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit,
/// Metaspace, and sequences of them.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  /// GPT-2's: its pattern, and a space in front where `add_prefix_space`.
  static PreTokenizer gpt2(bool add_prefix_space);
  /// Qwen2's: its pattern, then bytes.
  static PreTokenizer qwen2(bool add_prefix_space);
  /// Throws std::runtime_error, naming `what` and the type or option, for what is not supported.
  static PreTokenizer from_json(const nlohmann::json& json, const std::string& what);

  /// Whether words are written in the byte alphabet.
  bool has_byte_level() const { return has_byte_level_; }
  /// The words of `text`, in order, none of them empty.
  Words split(std::string text, bool begins_text) const;

 private:
  struct ByteLevel {
    bool adds_space;  // in front of a word that begins with none
  };
  struct ToBytes {};  // writes words in the byte alphabet
  struct Metaspace {
    std::string mark;  // stands for a space
    enum class Prepend { always, first, never } prepend;
  };
  void add(const nlohmann::json& json, const std::string& what);
  void add_byte_level(bool adds_space, bool uses_pattern);
  std::vector<std::variant<Splitter, ByteLevel, ToBytes, Metaspace>> steps_;
  bool has_byte_level_ = false;
};

}  // namespace cbq
