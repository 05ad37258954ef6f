#include "nn/gguf/gguf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/formats/unicode.h"
#include "nn/gguf/gguf_sentencepiece.h"
#include "nn/gguf/gguf_vocabulary.h"
#include "nn/text/tokenizers/patterns.h"
#include "tensor/error.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr int64_t max_id = std::numeric_limits<int32_t>::max();
// ---- the settings of both kinds -----------------------------------------------------------------

json tokenizer_config(const GgufFile& file, const GgufVocabulary& v, const char* class_name) {
  json config = json::object();
  const std::pair<const char*, int64_t> specials[] = {
      {"bos_token", v.bos}, {"eos_token", v.eos}, {"unk_token", v.unk}, {"pad_token", v.pad}};
  for (const auto& [key, id] : specials) {
    if (id >= 0) config[key] = v.tokens[static_cast<size_t>(id)];
  }
  const std::string context = file.text("general.architecture") + ".context_length";
  if (file.has(context)) config["model_max_length"] = file.integer(context, 1, max_id);
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = class_name;
  if (file.has("tokenizer.chat_template")) {
    config["chat_template"] = file.text("tokenizer.chat_template");
  }
  return config;
}

json generation_config(const GgufVocabulary& v) {
  json config = json::object();
  if (v.bos >= 0) config["bos_token_id"] = v.bos;
  if (v.eos >= 0 && v.end_of_turn >= 0 && v.end_of_turn != v.eos) {
    config["eos_token_id"] = {v.eos, v.end_of_turn};
  } else if (v.eos >= 0) {
    config["eos_token_id"] = v.eos;
  }
  if (v.pad >= 0) config["pad_token_id"] = v.pad;
  return config;
}

// ---- byte-level BPE -----------------------------------------------------------------------------

constexpr const char* single_digits = R"(\p{N})";

struct Rule {
  const char* name;     // "tokenizer.ggml.pre"
  const char* pattern;  // of a first division; null: none
  bool then_gpt2;       // GPT-2's pattern divides what the first leaves
  bool nfc;             // texts are composed first (Unicode's form NFC)
  bool ignore_merges;   // a word that is a token is not put together from smaller ones
  bool adds_bos;        // where the file does not say
};
constexpr Rule rules[] = {{"gpt-2", nullptr, true, false, false, false},
                          {"smollm", single_digits, true, false, false, false},
                          {"llama-bpe", llama3_pattern, false, false, true, true},
                          {"llama3", llama3_pattern, false, false, true, true},
                          {"llama-v3", llama3_pattern, false, false, true, true},
                          {"qwen2", qwen2_pattern, false, true, false, false},
                          {"deepseek-r1-qwen", qwen2_pattern, false, true, false, false},
                          {"tekken", tekken_pattern, false, false, true, true}};

const Rule& rule_of(const GgufFile& file, const std::string& given) {
  const std::string name = given.empty() ? file.text(gguf_tokenizer_prefix + "pre", "") : given;
  for (const Rule& rule : rules) {
    if (name == rule.name) return rule;
  }
  const std::string path = file.path().string();
  if (name.empty()) {
    fail(path, ": the file does not say how its tokenizer divides texts into words (\"",
         gguf_tokenizer_prefix,
         "pre\" is missing); give --pre-tokenizer with one of: ", known_gguf_pre_tokenizers());
  }
  fail(path, ": the rule \"", name, "\" for dividing texts into words (\"", gguf_tokenizer_prefix,
       "pre\") is not known; known: ", known_gguf_pre_tokenizers(),
       ". Where one of them is right for this model, give it with --pre-tokenizer");
}

json pre_tokenizer_of(const Rule& rule) {
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", rule.then_gpt2}};
  if (rule.pattern == nullptr) return byte_level;
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", rule.pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", json::array({split, byte_level})}};
}

/// What a tokenizer.json says of the division of texts, as far as rules differ in it.
struct Divided {
  std::string pattern;
  bool then_gpt2 = false, nfc = false, ignore_merges = false;
  bool is_known = true;  // false: it has parts that no rule has
  bool operator==(const Divided&) const = default;
};

Divided divided_of(const Rule& rule) {
  return {rule.pattern == nullptr ? "" : rule.pattern, rule.then_gpt2, rule.nfc,
          rule.ignore_merges};
}

void add_part(const json& part, Divided& found) {
  const std::string type = part.value("type", "");
  if (type == "Sequence") {
    for (const json& one : part.value("pretokenizers", json::array())) add_part(one, found);
  } else if (type == "ByteLevel") {
    found.then_gpt2 = part.value("use_regex", true);
    found.is_known &= !part.value("add_prefix_space", false);
  } else if (type == "Digits" && part.value("individual_digits", false) && found.pattern.empty()) {
    found.pattern = single_digits;
  } else if (type == "Split" && found.pattern.empty() && !part.value("invert", false) &&
             part.value("behavior", "") == "Isolated" && part.contains("pattern")) {
    found.pattern = part["pattern"].value("Regex", "");
    found.is_known &= !found.pattern.empty();
  } else {
    found.is_known = false;
  }
}

Divided divided(const json& tokenizer) {
  Divided found;
  const auto part = [&](const char* key) {
    const auto at = tokenizer.find(key);
    return at == tokenizer.end() || !at->is_object() ? json::object() : *at;
  };
  add_part(part("pre_tokenizer"), found);
  const json normalizer = part("normalizer"), model = part("model");
  found.nfc = normalizer.value("type", "") == "NFC";
  found.is_known &= found.nfc || normalizer.empty();
  found.ignore_merges = model.value("ignore_merges", false);
  return found;
}

json byte_level_tokenizer(const GgufFile& file, const GgufVocabulary& v, const Rule& rule) {
  const std::string path = file.path().string();
  json vocabulary = json::object();
  std::set<std::string> seen;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    // llama.cpp fills vocabularies up to the embedding's size with tokens that no text has.
    if (v.types[id] == PieceType::unused) continue;
    if (!seen.insert(v.tokens[id]).second) {
      fail(path, ": \"", gguf_tokenizer_prefix, "tokens\" has \"", v.tokens[id],
           "\" twice, the second time as ", "token ", id);
    }
    vocabulary[v.tokens[id]] = id;
  }
  json merges = json::array();
  for (const std::string& merge : file.texts(gguf_tokenizer_prefix + "merges")) {
    const size_t space = merge.find(' ', 1);  // no token begins with a plain space
    const std::string whole =
        space == std::string::npos ? "" : merge.substr(0, space) + merge.substr(space + 1);
    if (whole.empty() || space + 1 == merge.size() || !seen.contains(merge.substr(0, space)) ||
        !seen.contains(merge.substr(space + 1)) || !seen.contains(whole)) {
      fail(path, ": element ", merges.size(), " of \"", gguf_tokenizer_prefix,
           "merges\" must be two tokens ", "with a space between them that make a third one",
           is_utf8(merge) ? ", is \"" + merge.substr(0, 60) + "\"" : ", is not UTF-8");
    }
    merges.push_back(merge);
  }
  const bool adds_bos = file.flag(gguf_tokenizer_prefix + "add_bos_token", rule.adds_bos);
  if (adds_bos && v.bos < 0) {
    fail(path, ": texts begin with a token of their own (\"", gguf_tokenizer_prefix,
         "add_bos_token\"), but \"", gguf_tokenizer_prefix, "bos_token_id\" is missing");
  }
  json model = bpe_model(std::move(vocabulary), std::move(merges));
  model["ignore_merges"] = rule.ignore_merges;
  const json normalizer = rule.nfc ? json{{"type", "NFC"}} : json(nullptr);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", gguf_added_tokens(v)},
          {"normalizer", normalizer},
          {"pre_tokenizer", pre_tokenizer_of(rule)},
          {"post_processor",
           adds_bos ? bos_processor(v.tokens[static_cast<size_t>(v.bos)], v.bos) : json(nullptr)},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model", std::move(model)}};
}

std::string text_of(const json& json) { return json.dump(2) + "\n"; }

}  // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file,
                                                        const std::string& pre_tokenizer) {
  const std::string kind = file.text(gguf_tokenizer_prefix + "model");
  if (kind == "no_vocab") return {};
  if (kind != "gpt2" && kind != "llama") {
    fail(
        file.path().string(), ": the tokenizer \"", kind, "\" (\"", gguf_tokenizer_prefix,
        "model\") is not supported; supported: gpt2 (byte-level BPE), llama (sentencepiece's BPE)");
  }
  GgufVocabulary v = read_gguf_vocabulary(file);
  std::map<std::string, std::string> files;
  json config;
  if (kind == "gpt2") {
    const Rule& rule = rule_of(file, pre_tokenizer);
    files["tokenizer.json"] = text_of(byte_level_tokenizer(file, v, rule));
    // This class reads tokenizer.json as it is; those named after a model bring rules of their own.
    config = tokenizer_config(file, v, "PreTrainedTokenizerFast");
  } else {
    if (!pre_tokenizer.empty()) {
      fail(file.path().string(), ": --pre-tokenizer ", pre_tokenizer,
           " is for byte-level tokenizers; this file's is sentencepiece's");
    }
    // llama.cpp's defaults for this kind.
    const auto is_control = [&](size_t id) {
      return id < v.types.size() && v.types[id] == PieceType::control;
    };
    if (!file.has(gguf_tokenizer_prefix + "bos_token_id") && is_control(1)) v.bos = 1;
    if (!file.has(gguf_tokenizer_prefix + "eos_token_id") && is_control(2)) v.eos = 2;
    const std::string model = sentencepiece_model(file, v);
    const json other = sentencepiece_tokenizer_json(file, v);
    const std::string text = other.is_null() ? "" : text_of(other);
    const bool has_both = !text.empty() && is_same_tokenizer(model, text, v, file.path().string());
    files["tokenizer.model"] = model;
    if (has_both) files["tokenizer.json"] = text;
    config = tokenizer_config(file, v, "PreTrainedTokenizerFast");
    // tokenizer.model alone: a class named after a model would bring rules of its own.
    if (!has_both) config.erase("tokenizer_class");
    config["add_bos_token"] =
        file.flag(gguf_tokenizer_prefix + "add_bos_token", true) && v.bos >= 0;
  }
  files["tokenizer_config.json"] = text_of(config);
  files["generation_config.json"] = text_of(generation_config(v));
  return files;
}

std::string gguf_pre_tokenizer_of(const json& tokenizer) {
  const Divided found = divided(tokenizer);
  for (const Rule& rule : rules) {
    if (found == divided_of(rule)) return rule.name;
  }
  return "";
}

json gguf_rule_json(const std::string& pre_tokenizer) {
  for (const Rule& rule : rules) {
    if (pre_tokenizer != rule.name) continue;
    return {{"normalizer", rule.nfc ? json{{"type", "NFC"}} : json(nullptr)},
            {"pre_tokenizer", pre_tokenizer_of(rule)}};
  }
  throw std::logic_error("no rule " + pre_tokenizer);
}

std::string known_gguf_pre_tokenizers() {
  std::string names;
  for (const Rule& rule : rules) names += concat(names.empty() ? "" : ", ", rule.name);
  return names;
}

}  // namespace cbq
