#include "nn/tokenizers/pre_tokenizer.h"

#include <utf8proc.h>

#include <cstdlib>

#include "nn/json.h"
#include "tensor/error.h"

namespace cbq {
namespace {

// Radford et al. 2019: a contraction; letters, digits or signs with at most one space in front;
// white space, of which the last goes to the word behind it.
constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string type_of(const nlohmann::json& json, const std::string& what) {
  return json_string(json_at(json, "type", what), "type", what);
}

bool option(const nlohmann::json& json, const char* key, bool otherwise, const std::string& what) {
  const nlohmann::json& value = json_find(json, key, what);
  return value.is_null() ? otherwise : json_bool(value, key, what);
}

/// {"Regex": pattern} or {"String": text}.
std::string pattern_of(const nlohmann::json& json, const std::string& what) {
  const nlohmann::json& regex = json_find(json, "Regex", what);
  if (!regex.is_null()) return json_string(regex, "Regex", what);
  std::string escaped;
  for (const char c : json_string(json_at(json, "String", what), "String", what)) {
    if (std::string_view("^$\\.[]|()?*+{}").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace

PreTokenizer PreTokenizer::gpt2(bool add_prefix_space) {
  PreTokenizer result;
  result.steps_.push_back({Regex(gpt2_pattern, "GPT-2"), true, add_prefix_space});
  result.has_byte_level_ = true;
  return result;
}

PreTokenizer PreTokenizer::from_json(const nlohmann::json& json, const std::string& what) {
  PreTokenizer result;
  const std::string where = what + ": \"pre_tokenizer\"";
  if (!json.is_null()) result.add(json, where);
  if (!result.has_byte_level_) {
    fail(where, " has no ByteLevel: this is no byte-level vocabulary (perhaps sentencepiece's in ",
         "another form: then copy tokenizer.model beside it)");
  }
  return result;
}

void PreTokenizer::add(const nlohmann::json& json, const std::string& what) {
  const std::string type = type_of(json, what);
  if (type == "Sequence") {
    const nlohmann::json& list = json_at(json, "pretokenizers", what);
    if (!list.is_array()) fail(what, ": \"pretokenizers\" must be a list");
    for (const nlohmann::json& part : list) add(part, what);
  } else if (type == "ByteLevel") {
    Step step;
    step.adds_space = option(json, "add_prefix_space", true, what);
    if (option(json, "use_regex", true, what)) step.pattern.emplace(gpt2_pattern, what);
    steps_.push_back(std::move(step));
    has_byte_level_ = true;
  } else if (type == "Split") {
    const std::string behavior = json_string(json_at(json, "behavior", what), "behavior", what);
    const bool invert = option(json, "invert", false, what);
    if (!(behavior == "Isolated") && !(behavior == "Removed" && invert)) {
      fail(what, ": Split with the behavior ", behavior, invert ? ", inverted," : "",
           " is not supported, only Isolated, and Removed with \"invert\"");
    }
    const std::string pattern = pattern_of(json_at(json, "pattern", what), what);
    steps_.push_back({Regex(pattern, what), behavior == "Isolated", false});
  } else {
    fail(what, ": the type ", type, " is not supported, only ByteLevel, Split and Sequence");
  }
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text,
                                                  std::deque<std::string>* storage) const {
  std::vector<std::string_view> words = {text}, parts;
  for (const Step& step : steps_) {
    parts.clear();
    for (std::string_view word : words) {
      if (step.adds_space && !word.starts_with(' ')) {
        word = storage->emplace_back(concat(" ", word));
      }
      if (!step.pattern) {
        parts.push_back(word);
        continue;
      }
      size_t end_of_last = 0;
      const auto gap_until = [&](size_t end) {
        if (step.keeps_gaps && end > end_of_last) {
          parts.push_back(word.substr(end_of_last, end - end_of_last));
        }
      };
      step.pattern->for_each_match(word, [&](size_t begin, size_t end) {
        gap_until(begin);
        parts.push_back(word.substr(begin, end - begin));
        end_of_last = end;
      });
      gap_until(word.size());
    }
    words.swap(parts);
  }
  return words;
}

Normalizer Normalizer::from_json(const nlohmann::json& json, const std::string& what) {
  Normalizer result;
  if (json.is_null()) return result;
  const std::string where = what + ": \"normalizer\"";
  const std::string type = type_of(json, where);
  if (type == "NFC") {
    result.nfc_ = true;
  } else if (type == "Sequence") {
    const nlohmann::json& list = json_at(json, "normalizers", where);
    if (!list.is_array()) fail(where, ": \"normalizers\" must be a list");
    for (const nlohmann::json& part : list) result.nfc_ |= from_json(part, what).nfc_;
  } else {
    fail(where, ": the type ", type, " is not supported, only NFC",
         type == "Prepend" || type == "Replace"
             ? " (this is a sentencepiece vocabulary: copy its tokenizer.model beside it)"
             : "");
  }
  return result;
}

std::string Normalizer::operator()(std::string_view text) const {
  utf8proc_uint8_t* composed = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(composed, std::free);
  if (size < 0) fail("NFC normalization failed: ", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(composed), static_cast<size_t>(size)};
}

}  // namespace cbq
