#include "nn/gguf/gguf_vocabulary.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace cbq {

using nlohmann::json;

namespace {

bool is_added(PieceType type) {
  return type == PieceType::control || type == PieceType::user_defined ||
         type == PieceType::unknown;
}

}  // namespace

int64_t gguf_token_id(const GgufFile& file, const std::string& key) {
  constexpr int64_t none = std::numeric_limits<uint32_t>::max();
  if (!file.has(gguf_tokenizer_prefix + key)) return -1;
  const int64_t id = file.integer(gguf_tokenizer_prefix + key, -1, none);
  return id == none ? -1 : id;
}

GgufVocabulary read_gguf_vocabulary(const GgufFile& file) {
  const std::string path = file.path().string();
  GgufVocabulary v;
  v.tokens = file.texts(gguf_tokenizer_prefix + "tokens");
  if (v.tokens.empty())
    fail(path, ": the vocabulary (\"", gguf_tokenizer_prefix, "tokens\") is empty");
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (!is_utf8(v.tokens[i]))
      fail(path, ": token ", i, " of \"", gguf_tokenizer_prefix, "tokens\" is not UTF-8");
  }
  v.types.assign(v.tokens.size(), PieceType::normal);
  if (file.has(gguf_tokenizer_prefix + "token_type")) {
    const std::vector<int64_t> types = file.integers(gguf_tokenizer_prefix + "token_type", 1, 6);
    if (types.size() != v.tokens.size()) {
      fail(path, ": \"", gguf_tokenizer_prefix, "token_type\" has ", types.size(), " elements for ",
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
    *id = gguf_token_id(file, key);
    if (*id >= static_cast<int64_t>(v.tokens.size())) {
      fail(path, ": \"", gguf_tokenizer_prefix, key, "\" is ", *id, ", but there are only ",
           v.tokens.size(), " tokens");
    }
  }
  if (file.flag(gguf_tokenizer_prefix + "add_eos_token", false)) {
    fail(path, ": a token behind each text (\"", gguf_tokenizer_prefix,
         "add_eos_token\") is not supported");
  }
  return v;
}

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

json gguf_added_tokens(const GgufVocabulary& v) {
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

}  // namespace cbq
