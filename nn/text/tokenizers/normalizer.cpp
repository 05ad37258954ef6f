#include "nn/text/tokenizers/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "nn/text/tokenizers/splitter.h"
#include "nn/text/tokenizers/unsupported.h"

namespace cbq {
namespace {

std::string normal_form(std::string_view text, int options) {
  utf8proc_uint8_t* result = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &result,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(result, std::free);
  if (size < 0) fail("normalization failed: ", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(size)};
}

/// Appends f(c, result) for every character.
template <class F>
std::string each_character(std::string_view text, F&& f) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) f(next_character(text, &at), &result);
  return result;
}

/// One character at a time, hence without a final sigma.
std::string lower_case(std::string_view text) {
  return each_character(text, [](char32_t c, std::string* result) {
    if (c == 0x130) {  // the only one that becomes two characters
      *result += "i\u0307";
    } else {
      const auto lower = utf8proc_tolower(static_cast<utf8proc_int32_t>(c));
      append_character(static_cast<char32_t>(lower), result);
    }
  });
}

std::string without_marks(std::string_view text) {
  return each_character(text, [](char32_t c, std::string* result) {
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
    if (category != UTF8PROC_CATEGORY_MN && category != UTF8PROC_CATEGORY_MC &&
        category != UTF8PROC_CATEGORY_ME) {
      append_character(c, result);
    }
  });
}

/// The rules of neural machine translation in sentencepiece: controls go, many spaces become one
/// kind.
std::string nmt(std::string_view text) {
  return each_character(text, [](char32_t c, std::string* result) {
    const bool is_control = (c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) ||
                            c == 0x7f || c == 0x8f || c == 0x9f;
    if (is_control) return;
    const bool is_space = c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                          (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
                          c == 0x2581 || c == 0xfeff || c == 0xfffd;
    append_character(is_space ? U' ' : c, result);
  });
}

std::string stripped(std::string_view text, bool left, bool right) {
  size_t begin = text.size(), end = 0;  // of what is no white space
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    if (is_white_space(next_character(text, &at))) continue;
    begin = std::min(begin, here);
    end = at;
  }
  if (end == 0) return left || right ? "" : std::string(text);
  return std::string(
      text.substr(left ? begin : 0, (right ? end : text.size()) - (left ? begin : 0)));
}

std::string replaced(std::string_view text, const Pattern& pattern, const std::string& content) {
  std::vector<Pattern::Piece> pieces;
  Pattern::Finder(pattern).find(text, &pieces);
  std::string result;
  result.reserve(text.size());
  for (const auto& [span, is_match] : pieces) {
    if (is_match) {
      result += content;
    } else {
      result += text.substr(span.begin, span.end - span.begin);
    }
  }
  return result;
}

}  // namespace

Normalizer Normalizer::nfc() {
  Normalizer result;
  result.steps_.push_back(
      [](std::string_view text) { return normal_form(text, UTF8PROC_COMPOSE); });
  return result;
}

Normalizer Normalizer::from_json(const nlohmann::json& json, const std::string& what) {
  Normalizer result;
  if (!json.is_null()) result.add(json, what + ": \"normalizer\"");
  return result;
}

void Normalizer::add(const nlohmann::json& json, const std::string& what) {
  const std::string type = json_string(json_at(json, "type", what), "type", what);
  const auto form = [this](int options) {
    steps_.push_back([options](std::string_view text) { return normal_form(text, options); });
  };
  const auto flag = [&](const char* key) { return json_bool(json_at(json, key, what), key, what); };
  const auto text_of = [&](const char* key) {
    return json_string(json_at(json, key, what), key, what);
  };
  if (type == "Sequence") {
    const nlohmann::json& list = json_at(json, "normalizers", what);
    if (!list.is_array()) fail(what, ": \"normalizers\" must be a list");
    for (const nlohmann::json& part : list) add(part, what);
  } else if (type == "NFC") {
    form(UTF8PROC_COMPOSE);
  } else if (type == "NFD") {
    form(UTF8PROC_DECOMPOSE);
  } else if (type == "NFKC") {
    form(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  } else if (type == "NFKD") {
    form(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  } else if (type == "Lowercase") {
    steps_.push_back(lower_case);
  } else if (type == "StripAccents") {
    steps_.push_back(without_marks);
  } else if (type == "Nmt") {
    steps_.push_back(nmt);
  } else if (type == "Strip") {
    const bool left = flag("strip_left"), right = flag("strip_right");
    steps_.push_back([left, right](std::string_view text) { return stripped(text, left, right); });
  } else if (type == "Prepend") {
    const std::string front = text_of("prepend");
    steps_.push_back([front](std::string_view text) {
      return text.empty() ? std::string() : concat(front, text);
    });
  } else if (type == "Replace") {
    const Pattern pattern = Pattern::from_json(json_at(json, "pattern", what), what);
    const std::string content = text_of("content");
    steps_.push_back(
        [pattern, content](std::string_view text) { return replaced(text, pattern, content); });
  } else if (type == "ByteLevel") {
    has_byte_level_ = true;
    steps_.push_back([](std::string_view text) {
      std::string result;
      for (const char c : text) append_token_of_byte(static_cast<unsigned char>(c), &result);
      return result;
    });
  } else {
    refuse_tokenizer(
        what, ": the type ", type,
        " is not supported, only NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, ",
        "Prepend, Nmt, ByteLevel and Sequence",
        type == "Precompiled"
            ? " (this is a sentencepiece vocabulary: copy its tokenizer.model beside it)"
            : "");
  }
}

std::string Normalizer::operator()(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) result = step(result);
  return result;
}

}  // namespace cbq
