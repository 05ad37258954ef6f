#include "nn/formats/gguf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "nn/json.h"
#include "nn/tokenizers/sentencepiece_model.h"
#include "tensor/error.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr int64_t max_id = std::numeric_limits<int32_t>::max();
const std::string prefix = "tokenizer.ggml.";

// ---- the fields that both kinds have ------------------------------------------------------------

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<PieceType> types;
  int64_t bos = -1, eos = -1, unk = -1, pad = -1, end_of_turn = -1;  // -1: none
};

Vocabulary read_vocabulary(const GgufFile& file) {
  const std::string path = file.path().string();
  Vocabulary v;
  v.tokens = file.texts(prefix + "tokens");
  if (v.tokens.empty()) fail(path, ": the vocabulary (\"", prefix, "tokens\") is empty");
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (!is_utf8(v.tokens[i])) fail(path, ": token ", i, " of \"", prefix, "tokens\" is not UTF-8");
  }
  v.types.assign(v.tokens.size(), PieceType::normal);
  if (file.has(prefix + "token_type")) {
    const std::vector<int64_t> types = file.integers(prefix + "token_type", 1, 6);
    if (types.size() != v.tokens.size()) {
      fail(path, ": \"", prefix, "token_type\" has ", types.size(), " elements for ",
           v.tokens.size(), " tokens");
    }
    std::transform(types.begin(), types.end(), v.types.begin(),
                   [](int64_t type) { return static_cast<PieceType>(type); });
  }
  const std::pair<const char*, int64_t*> ids[] = {{"bos_token_id", &v.bos},
                                                  {"eos_token_id", &v.eos},
                                                  {"unknown_token_id", &v.unk},
                                                  {"padding_token_id", &v.pad},
                                                  {"eot_token_id", &v.end_of_turn}};
  for (const auto& [key, id] : ids) {
    if (!file.has(prefix + key)) continue;
    *id = file.integer(prefix + key, -1, std::numeric_limits<uint32_t>::max());
    if (*id == std::numeric_limits<uint32_t>::max()) *id = -1;  // how old files say "none"
    if (*id >= static_cast<int64_t>(v.tokens.size())) {
      fail(path, ": \"", prefix, key, "\" is ", *id, ", but there are only ", v.tokens.size(),
           " tokens");
    }
  }
  if (file.flag(prefix + "add_eos_token", false)) {
    fail(path, ": a token behind each text (\"", prefix, "add_eos_token\") is not supported");
  }
  return v;
}

json tokenizer_config(const GgufFile& file, const Vocabulary& v, const char* class_name) {
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

json generation_config(const Vocabulary& v) {
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

// How texts are divided into words, each the pattern of the models' own tokenizer.json. GPT-2's
// pattern is the ByteLevel pre-tokenizer's own.
constexpr const char* llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
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
  const std::string name = given.empty() ? file.text(prefix + "pre", "") : given;
  for (const Rule& rule : rules) {
    if (name == rule.name) return rule;
  }
  const std::string path = file.path().string();
  if (name.empty()) {
    fail(path, ": the file does not say how its tokenizer divides texts into words (\"", prefix,
         "pre\" is missing); give --pre-tokenizer with one of: ", known_gguf_pre_tokenizers());
  }
  fail(path, ": the rule \"", name, "\" for dividing texts into words (\"", prefix,
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

/// A token in front of each text.
json bos_processor(const std::string& token, int64_t id) {
  const json special = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const auto text = [](const char* which, int type) {
    return json{{"Sequence", {{"id", which}, {"type_id", type}}}};
  };
  const json second = {{"SpecialToken", {{"id", token}, {"type_id", 1}}}};
  json entry = {{"id", token}, {"ids", json::array({id})}, {"tokens", json::array({token})}};
  return {{"type", "TemplateProcessing"},
          {"single", json::array({special, text("A", 0)})},
          {"pair", json::array({special, text("A", 0), second, text("B", 1)})},
          {"special_tokens", {{token, std::move(entry)}}}};
}

bool is_added(PieceType type) {
  return type == PieceType::control || type == PieceType::user_defined ||
         type == PieceType::unknown;
}

/// The tokens that are looked for in a text before anything else.
json added_tokens(const Vocabulary& v) {
  json added = json::array();
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (!is_added(v.types[id])) continue;
    added.push_back({{"id", id},
                     {"content", v.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", v.types[id] != PieceType::user_defined}});
  }
  return added;
}

/// What tokenizer.json says of every BPE model, and of this one the rest.
json bpe_model(json vocabulary, json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocabulary)},
          {"merges", std::move(merges)}};
}

json byte_level_tokenizer(const GgufFile& file, const Vocabulary& v, const Rule& rule) {
  const std::string path = file.path().string();
  json vocabulary = json::object();
  std::set<std::string> seen;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    // llama.cpp fills vocabularies up to the embedding's size with tokens that no text has.
    if (v.types[id] == PieceType::unused) continue;
    if (!seen.insert(v.tokens[id]).second) {
      fail(path, ": \"", prefix, "tokens\" has \"", v.tokens[id], "\" twice, the second time as ",
           "token ", id);
    }
    vocabulary[v.tokens[id]] = id;
  }
  json merges = json::array();
  for (const std::string& merge : file.texts(prefix + "merges")) {
    const size_t space = merge.find(' ', 1);  // no token begins with a plain space
    const std::string whole =
        space == std::string::npos ? "" : merge.substr(0, space) + merge.substr(space + 1);
    if (whole.empty() || space + 1 == merge.size() || !seen.contains(merge.substr(0, space)) ||
        !seen.contains(merge.substr(space + 1)) || !seen.contains(whole)) {
      fail(path, ": element ", merges.size(), " of \"", prefix, "merges\" must be two tokens ",
           "with a space between them that make a third one",
           is_utf8(merge) ? ", is \"" + merge.substr(0, 60) + "\"" : ", is not UTF-8");
    }
    merges.push_back(merge);
  }
  const bool adds_bos = file.flag(prefix + "add_bos_token", rule.adds_bos);
  if (adds_bos && v.bos < 0) {
    fail(path, ": texts begin with a token of their own (\"", prefix, "add_bos_token\"), but \"",
         prefix, "bos_token_id\" is missing");
  }
  json model = bpe_model(std::move(vocabulary), std::move(merges));
  model["ignore_merges"] = rule.ignore_merges;
  const json normalizer = rule.nfc ? json{{"type", "NFC"}} : json(nullptr);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(v)},
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

// ---- sentencepiece ------------------------------------------------------------------------------

std::string sentencepiece_model(const GgufFile& file, const Vocabulary& v) {
  const std::string path = file.path().string();
  const std::vector<double> scores = file.numbers(prefix + "scores");
  if (scores.size() != v.tokens.size()) {
    fail(path, ": \"", prefix, "scores\" has ", scores.size(), " elements for ", v.tokens.size(),
         " tokens");
  }
  if (file.has(prefix + "precompiled_charsmap")) {
    fail(path, ": a normalization of characters (\"", prefix,
         "precompiled_charsmap\") is not supported");
  }
  SentencepieceModel model;
  SentencepieceSettings settings;
  settings.unk_id = v.unk;
  settings.byte_fallback = false;
  int64_t unknown = 0;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    model.add_piece(v.tokens[id], static_cast<float>(scores[id]), v.types[id]);
    settings.byte_fallback |= v.types[id] == PieceType::byte;
    if (v.types[id] != PieceType::unknown) continue;
    settings.unk_id = static_cast<int64_t>(id);
    ++unknown;
  }
  if (unknown != 1) {
    fail(path, ": ", unknown, " tokens are of the type unknown (\"", prefix,
         "token_type\" 2); sentencepiece needs exactly one");
  }
  settings.bos_id = v.bos;
  settings.eos_id = v.eos;
  settings.pad_id = v.pad;
  settings.add_dummy_prefix = file.flag(prefix + "add_space_prefix", true);
  settings.remove_extra_whitespaces = file.flag(prefix + "remove_extra_whitespaces", false);
  return model.bytes(settings);
}

/// Pairs of tokens in the order in which BPE joins them. Sentencepiece joins the two neighbours
/// whose union has the best score; so the unions, by falling score, with every pair that makes
/// them.
json merges_of(const Vocabulary& v, const std::vector<double>& scores) {
  std::set<std::string_view> normal;
  std::vector<size_t> order;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.types[id] != PieceType::normal) continue;
    normal.insert(v.tokens[id]);
    order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  json merges = json::array();
  for (const size_t id : order) {
    const std::string_view token = v.tokens[id];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const std::string_view left = token.substr(0, cut), right = token.substr(cut);
      if (!normal.contains(left) || !normal.contains(right)) continue;
      merges.push_back(json::array({std::string(left), std::string(right)}));
    }
  }
  return merges;
}

/// The same model for the library `tokenizers`; null where it has no words for a setting.
json sentencepiece_tokenizer_json(const GgufFile& file, const Vocabulary& v) {
  const bool has_unused =
      std::find(v.types.begin(), v.types.end(), PieceType::unused) != v.types.end();
  const bool has_bytes =
      std::find(v.types.begin(), v.types.end(), PieceType::byte) != v.types.end();
  if (has_unused || file.flag(prefix + "remove_extra_whitespaces", false)) return nullptr;
  // "Prepend" would put a space in front of every part between such tokens, not of the text alone.
  const bool has_user_defined =
      std::find(v.types.begin(), v.types.end(), PieceType::user_defined) != v.types.end();
  if (has_user_defined && file.flag(prefix + "add_space_prefix", true)) return nullptr;
  json vocabulary = json::object();
  for (size_t id = 0; id < v.tokens.size(); ++id) vocabulary[v.tokens[id]] = id;
  if (vocabulary.size() != v.tokens.size()) return nullptr;  // the reader of the model refuses it
  json model = bpe_model(std::move(vocabulary), merges_of(v, file.numbers(prefix + "scores")));
  const auto unknown = std::find(v.types.begin(), v.types.end(), PieceType::unknown);
  model["unk_token"] = v.tokens[static_cast<size_t>(unknown - v.types.begin())];
  model["fuse_unk"] = true;
  model["byte_fallback"] = has_bytes;
  const char* const space = "\u2581";
  json normalizers = json::array();
  json decoders =
      json::array({{{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}});
  if (file.flag(prefix + "add_space_prefix", true)) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", space}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}});
  const bool adds_bos = file.flag(prefix + "add_bos_token", true) && v.bos >= 0;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(v)},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           adds_bos ? bos_processor(v.tokens[static_cast<size_t>(v.bos)], v.bos) : json(nullptr)},
          {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
          {"model", std::move(model)}};
}

std::string text_of(const json& json) { return json.dump(2) + "\n"; }

}  // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file,
                                                        const std::string& pre_tokenizer) {
  const std::string kind = file.text(prefix + "model");
  if (kind != "gpt2" && kind != "llama") {
    fail(
        file.path().string(), ": the tokenizer \"", kind, "\" (\"", prefix,
        "model\") is not supported; supported: gpt2 (byte-level BPE), llama (sentencepiece's BPE)");
  }
  const Vocabulary v = read_vocabulary(file);
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
    files["tokenizer.model"] = sentencepiece_model(file, v);
    const json other = sentencepiece_tokenizer_json(file, v);
    if (!other.is_null()) files["tokenizer.json"] = text_of(other);
    config = tokenizer_config(file, v, "PreTrainedTokenizerFast");
    // tokenizer.model alone: a class named after a model would bring rules of its own.
    if (other.is_null()) config.erase("tokenizer_class");
    config["add_bos_token"] = file.flag(prefix + "add_bos_token", true);
  }
  files["tokenizer_config.json"] = text_of(config);
  files["generation_config.json"] = text_of(generation_config(v));
  return files;
}

std::string known_gguf_pre_tokenizers() {
  std::string names;
  for (const Rule& rule : rules) names += concat(names.empty() ? "" : ", ", rule.name);
  return names;
}

}  // namespace cbq
