// Byte-level vocabularies from files: tokenizer.json, or vocab.json with merges.txt.
#include <algorithm>
#include <set>

#include "nn/hash.h"
#include "nn/json.h"
#include "nn/tokenizers/byte_level.h"
#include "nn/tokenizers/loaders.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

using nlohmann::json;

constexpr int64_t max_id = std::numeric_limits<int32_t>::max();

/// {"token": id, ...}.
std::vector<std::pair<std::string, int32_t>> read_vocabulary(const json& vocab,
                                                             const std::string& what) {
  if (!vocab.is_object() || vocab.empty()) fail(what, ": the vocabulary must be an object of ids");
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  vocabulary.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    vocabulary.emplace_back(token, static_cast<int32_t>(json_int(id, token, what, 0, max_id)));
  }
  return vocabulary;
}

/// "left right" in two.
std::pair<std::string, std::string> split_merge(const std::string& line, const std::string& what,
                                                size_t number) {
  const size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string::npos) {
    fail(what, ": merge ", number, " must be two tokens with a space between them, is \"",
         line.substr(0, 60), "\"");
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

/// Either "left right" or ["left", "right"] each.
std::vector<std::pair<std::string, std::string>> read_merges(const json& list,
                                                             const std::string& what) {
  if (!list.is_array()) fail(what, ": \"merges\" must be a list");
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const json& merge : list) {
    if (merge.is_array() && merge.size() == 2) {
      merges.emplace_back(json_string(merge[0], "merges", what),
                          json_string(merge[1], "merges", what));
    } else {
      merges.push_back(split_merge(json_string(merge, "merges", what), what, merges.size()));
    }
  }
  return merges;
}

/// Options of the BPE model that change ids and are not implemented must be off.
void refuse_unsupported(const json& model, const std::string& what) {
  const json& type = json_find(model, "type", what);  // absent in files of old versions
  if (!type.is_null() && json_string(type, "type", what) != "BPE") {
    fail(what, ": the type ", type.get<std::string>(), " is not supported, only BPE over bytes");
  }
  const json& fallback = json_find(model, "byte_fallback", what);
  if (!fallback.is_null() && json_bool(fallback, "byte_fallback", what)) {
    fail(what, ": byte_fallback is not supported: this is a sentencepiece vocabulary; copy its ",
         "tokenizer.model beside it");
  }
  const json& dropout = json_find(model, "dropout", what);
  if (!dropout.is_null() && json_double(dropout, "dropout", what) != 0.0) {
    fail(what, ": dropout is not supported: ids would be random");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& affix = json_find(model, key, what);
    if (!affix.is_null() && !json_string(affix, key, what).empty()) {
      fail(what, ": ", key, " is not supported: this is no byte-level vocabulary");
    }
  }
}

std::vector<AddedToken> read_added_tokens(const json& list, const std::string& what) {
  std::vector<AddedToken> added;
  if (list.is_null()) return added;
  if (!list.is_array()) fail(what, ": \"added_tokens\" must be a list");
  for (const json& entry : list) {
    const std::string where = concat(what, ": added_tokens[", added.size(), "]");
    const auto flag = [&](const char* key, bool otherwise) {
      const json& value = json_find(entry, key, where);
      return value.is_null() ? otherwise : json_bool(value, key, where);
    };
    AddedToken token;
    token.id = static_cast<int32_t>(json_int(json_at(entry, "id", where), "id", where, 0, max_id));
    token.content = json_string(json_at(entry, "content", where), "content", where);
    token.special = flag("special", false);
    token.strips_left = flag("lstrip", false);
    token.strips_right = flag("rstrip", false);
    token.after_normalizer = flag("normalized", !token.special);
    if (flag("single_word", false)) fail(where, ": single_word is not supported");
    added.push_back(std::move(token));
  }
  return added;
}

/// The ids that "post_processor" puts in front of a text.
std::vector<int32_t> read_prefix(const json& processor, const std::string& what) {
  if (processor.is_null()) return {};
  const std::string where = what + ": \"post_processor\"";
  const std::string type = json_string(json_at(processor, "type", where), "type", where);
  if (type == "ByteLevel") return {};  // only about offsets
  std::vector<int32_t> prefix;
  if (type == "Sequence") {
    const json& list = json_at(processor, "processors", where);
    if (!list.is_array()) fail(where, ": \"processors\" must be a list");
    for (const json& part : list) {
      const std::vector<int32_t> more = read_prefix(part, what);
      prefix.insert(prefix.begin(), more.begin(), more.end());
    }
    return prefix;
  }
  if (type != "TemplateProcessing") {
    fail(where, ": the type ", type,
         " is not supported, only TemplateProcessing, ByteLevel and Sequence");
  }
  const json& single = json_at(processor, "single", where);
  if (!single.is_array()) fail(where, ": \"single\" must be a list");
  bool text_seen = false;
  for (const json& part : single) {
    if (part.contains("Sequence")) {
      text_seen = true;
      continue;
    }
    const json& special = json_at(part, "SpecialToken", where);
    const std::string name = json_string(json_at(special, "id", where), "id", where);
    if (text_seen) fail(where, " puts ", name, " behind each text, which is not supported");
    const json& entry = json_at(json_at(processor, "special_tokens", where), name, where);
    const json& ids = json_at(entry, "ids", where);
    if (!ids.is_array()) fail(where, ": \"ids\" of ", name, " must be a list");
    for (const json& id : ids) {
      prefix.push_back(static_cast<int32_t>(json_int(id, "ids", where, 0, max_id)));
    }
  }
  return prefix;
}

/// -1 for a content that no token has.
int32_t id_of(const ByteLevelParts& parts, const std::string& content) {
  if (content.empty()) return -1;
  for (const AddedToken& added : parts.added) {
    if (added.content == content) return added.id;
  }
  for (const auto& [token, id] : parts.vocabulary) {
    if (token == content) return id;
  }
  return -1;
}

/// merges.txt: a comment with the version, then a merge per line.
std::vector<std::pair<std::string, std::string>> read_merges_file(const fs::path& file,
                                                                  const std::string& text) {
  std::vector<std::pair<std::string, std::string>> merges;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    ++number;
    if (!line.empty() && !(number == 1 && line.starts_with("#version"))) {
      merges.push_back(split_merge(line, concat(file.string(), ", line ", number), merges.size()));
    }
    begin = end + 1;
  }
  if (merges.empty()) fail(file.string(), " holds no merges");
  return merges;
}

/// OPT puts "</s>" in front of every text. Its tokenizer_config.json says so; a folder without one
/// is known by the model's config.json.
bool is_opt(const fs::path& folder) {
  std::error_code error;
  const fs::path file = folder / "config.json";
  if (!fs::exists(file, error)) return false;
  const json root = read_json_file(file);
  const json& type = json_find(root, "model_type", file.string());
  return type.is_string() && type.get<std::string>() == "opt";
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_json(const fs::path& file) {
  const std::string text = read_text_file(file, size_t{256} << 20);
  const std::string what = file.string();
  const json root = parse_json(text, what);
  const json& model = json_at(root, "model", what);
  const std::string model_what = what + ": \"model\"";
  refuse_unsupported(model, model_what);
  ByteLevelParts parts;
  parts.path = what;
  parts.hash = hex(hash_bytes(text));
  parts.normalizer = Normalizer::from_json(json_find(root, "normalizer", what), what);
  parts.pre_tokenizer = PreTokenizer::from_json(json_find(root, "pre_tokenizer", what), what);
  parts.vocabulary = read_vocabulary(json_at(model, "vocab", model_what), model_what);
  parts.merges = read_merges(json_at(model, "merges", model_what), model_what);
  const json& ignore = json_find(model, "ignore_merges", model_what);
  parts.ignore_merges = !ignore.is_null() && json_bool(ignore, "ignore_merges", model_what);
  parts.added = read_added_tokens(json_find(root, "added_tokens", what), what);
  parts.prefix = read_prefix(json_find(root, "post_processor", what), what);
  const SpecialTokens special = read_special_tokens(file.parent_path());
  parts.bos_id = id_of(parts, special.bos);
  parts.eos_id = id_of(parts, special.eos);
  if (parts.bos_id < 0 && parts.prefix.size() == 1) parts.bos_id = parts.prefix[0];
  return make_byte_level(std::move(parts));
}

std::unique_ptr<Tokenizer> load_vocab_and_merges(const fs::path& folder) {
  const fs::path vocab_file = folder / "vocab.json", merges_file = folder / "merges.txt";
  const std::string vocab = read_text_file(vocab_file, size_t{256} << 20);
  const std::string merges = read_text_file(merges_file, size_t{256} << 20);
  ByteLevelParts parts;
  parts.path = folder.string();
  parts.hash = hex(hash_bytes(merges, hash_bytes(vocab)));
  parts.vocabulary = read_vocabulary(parse_json(vocab, vocab_file.string()), vocab_file.string());
  parts.merges = read_merges_file(merges_file, merges);
  SpecialTokens special = read_special_tokens(folder);
  const bool opt = special.add_bos < 0 && is_opt(folder);
  if (special.bos.empty() && special.eos.empty()) {
    special.bos = special.eos = opt ? "</s>" : "<|endoftext|>";
    if (id_of(parts, special.eos) < 0 && !opt) special.bos = special.eos = "";
  }
  parts.pre_tokenizer = PreTokenizer::gpt2(special.add_prefix_space);
  std::set<int32_t> seen;
  for (const std::string& content : {special.bos, special.eos, special.unk, special.pad}) {
    if (content.empty()) continue;
    const int32_t id = id_of(parts, content);
    if (id < 0) {
      fail(vocab_file.string(), ": the special token ", content,
           " is not in the vocabulary; use the model's tokenizer.json");
    }
    if (seen.insert(id).second) parts.added.push_back({id, content, true});
  }
  parts.bos_id = id_of(parts, special.bos);
  parts.eos_id = id_of(parts, special.eos);
  if ((special.add_bos == 1 || opt) && parts.bos_id >= 0) parts.prefix = {parts.bos_id};
  if (!parts.prefix.empty() || special.add_prefix_space) {  // other ids: another tokenizer
    const std::string rules = concat("prefix ", parts.prefix.size(), special.add_prefix_space);
    parts.hash = hex(hash_bytes(rules, hash_bytes(merges, hash_bytes(vocab))));
  }
  return make_byte_level(std::move(parts));
}

}  // namespace cbq
