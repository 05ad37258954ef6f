#include "nn/text/tokenizers/decoder.h"

#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "nn/text/tokenizers/splitter.h"
#include "nn/text/tokenizers/unsupported.h"

namespace cbq {
namespace {

using Tokens = std::vector<std::string>;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/// "<0x41>" is a byte; other tokens stay.
void bytes_of_fallback(Tokens* tokens) {
  for (std::string& token : *tokens) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') continue;
    const int high = hex_digit(token[3]), low = hex_digit(token[4]);
    if (high >= 0 && low >= 0) token = std::string(1, static_cast<char>(high << 4 | low));
  }
}

void fuse(Tokens* tokens) {
  std::string all;
  for (const std::string& token : *tokens) all += token;
  *tokens = {all};
}

void replace(const Pattern& pattern, const std::string& content, Tokens* tokens) {
  Pattern::Finder finder(pattern);
  std::vector<Pattern::Piece> pieces;
  for (std::string& token : *tokens) {
    finder.find(token, &pieces);
    std::string result;
    for (const auto& [span, is_match] : pieces) {
      result += is_match ? content : token.substr(span.begin, span.end - span.begin);
    }
    token = result;
  }
}

/// Removes up to `left` times `content` from each token's beginning, up to `right` from its end.
void strip(const std::string& content, int64_t left, int64_t right, Tokens* tokens) {
  for (std::string& token : *tokens) {
    for (int64_t i = 0; i < left && token.starts_with(content); ++i) token.erase(0, content.size());
    for (int64_t i = 0; i < right && token.ends_with(content); ++i) {
      token.resize(token.size() - content.size());
    }
  }
}

/// The mark is a space again, but for the one that was put in front of the first word.
void spaces_of_marks(const std::string& mark, bool is_prepended, Tokens* tokens) {
  for (size_t i = 0; i < tokens->size(); ++i) {
    std::string& token = (*tokens)[i];
    for (size_t at = 0; (at = token.find(mark, at)) != std::string::npos;) {
      const bool is_left_out = i == 0 && is_prepended;
      token.replace(at, mark.size(), is_left_out ? "" : " ");
      at += is_left_out ? 0 : 1;
    }
  }
}

}  // namespace

TokenDecoder TokenDecoder::byte_level() {
  TokenDecoder result;
  result.is_byte_level_ = true;
  result.joins_by_spaces_ = false;
  return result;
}

TokenDecoder TokenDecoder::from_json(const nlohmann::json& json, const std::string& what) {
  if (json.is_null()) return {};
  const std::string where = what + ": \"decoder\"";
  if (json_string(json_at(json, "type", where), "type", where) == "ByteLevel") return byte_level();
  TokenDecoder result;
  result.joins_by_spaces_ = false;
  result.add(json, where);
  return result;
}

void TokenDecoder::add(const nlohmann::json& json, const std::string& what) {
  const std::string type = json_string(json_at(json, "type", what), "type", what);
  const auto text_of = [&](const char* key) {
    return json_string(json_at(json, key, what), key, what);
  };
  if (type == "Sequence") {
    const nlohmann::json& list = json_at(json, "decoders", what);
    if (!list.is_array()) fail(what, ": \"decoders\" must be a list");
    for (const nlohmann::json& part : list) add(part, what);
  } else if (type == "ByteLevel") {
    steps_.push_back([](Tokens* tokens) {
      for (std::string& token : *tokens) token = bytes_of_token(token).value_or(token);
    });
  } else if (type == "ByteFallback") {
    steps_.push_back(bytes_of_fallback);
  } else if (type == "Fuse") {
    steps_.push_back(fuse);
  } else if (type == "Replace") {
    steps_.push_back(
        [pattern = Pattern::from_json(json_at(json, "pattern", what), what),
         content = text_of("content")](Tokens* tokens) { replace(pattern, content, tokens); });
  } else if (type == "Strip") {
    const auto count = [&](const char* key) {
      return json_int(json_at(json, key, what), key, what, 0, 1 << 20);
    };
    steps_.push_back([content = text_of("content"), left = count("start"),
                      right = count("stop")](Tokens* tokens) {
      if (!content.empty()) strip(content, left, right, tokens);
    });
  } else if (type == "Metaspace") {
    const std::string mark = text_of("replacement");
    if (mark.empty()) fail(what, ": \"replacement\" is empty");
    const nlohmann::json& scheme = json_find(json, "prepend_scheme", what);
    const nlohmann::json& space = json_find(json, "add_prefix_space", what);
    const bool is_prepended = (scheme.is_null() || scheme != "never") &&
                              (space.is_null() || json_bool(space, "add_prefix_space", what));
    steps_.push_back(
        [mark, is_prepended](Tokens* tokens) { spaces_of_marks(mark, is_prepended, tokens); });
  } else {
    unsupported_ = concat(what, ": the type ", type, " is not supported, only ByteLevel, ",
                          "ByteFallback, Fuse, Replace, Strip, Metaspace and Sequence");
  }
}

std::string TokenDecoder::operator()(Tokens tokens) const {
  if (!unsupported_.empty()) refuse_tokenizer(unsupported_);
  for (const Step& step : steps_) step(&tokens);
  std::string text;
  for (const std::string& token : tokens) {
    if (joins_by_spaces_ && !text.empty()) text += ' ';
    text += token;
  }
  return text;
}

}  // namespace cbq
