// BPE vocabularies from files: tokenizer.json, or vocab.json with merges.txt.
#include <algorithm>
#include <iostream>

#include "nn/formats/hash.h"
#include "nn/formats/json.h"
#include "nn/text/tokenizers/bpe_tokenizer.h"
#include "nn/text/tokenizers/companions.h"
#include "nn/text/tokenizers/loaders.h"
#include "nn/text/tokenizers/unsupported.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

using nlohmann::json;

/// {"token": id, ...}.
std::vector<std::pair<std::string, int32_t>> read_vocabulary(const json& vocab,
                                                             const std::string& what) {
  if (!vocab.is_object() || vocab.empty()) fail(what, ": the vocabulary must be an object of ids");
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  vocabulary.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    vocabulary.emplace_back(token,
                            static_cast<int32_t>(json_int(id, token, what, 0, max_token_id)));
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

Bpe::Options read_options(const json& model, const std::string& what) {
  const json& type = json_find(model, "type", what);  // absent in files of old versions
  if (!type.is_null() && json_string(type, "type", what) != "BPE") {
    refuse_tokenizer(what, ": the type ", type.get<std::string>(), " is not supported, only BPE");
  }
  const json& dropout = json_find(model, "dropout", what);
  if (!dropout.is_null() && json_double(dropout, "dropout", what) != 0.0) {
    refuse_tokenizer(what, ": dropout is not supported: ids would be random");
  }
  const auto flag = [&](const char* key) {
    const json& value = json_find(model, key, what);
    return !value.is_null() && json_bool(value, key, what);
  };
  const auto text = [&](const char* key) {
    const json& value = json_find(model, key, what);
    return value.is_null() ? "" : json_string(value, key, what);
  };
  Bpe::Options options;
  options.ignore_merges = flag("ignore_merges");
  options.byte_fallback = flag("byte_fallback");
  options.fuse_unknown = flag("fuse_unk");
  options.prefix = text("continuing_subword_prefix");
  options.suffix = text("end_of_word_suffix");
  if (!json_find(model, "unk_token", what).is_null()) options.unknown = text("unk_token");
  return options;
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
    token.id =
        static_cast<int32_t>(json_int(json_at(entry, "id", where), "id", where, 0, max_token_id));
    token.content = json_string(json_at(entry, "content", where), "content", where);
    token.special = flag("special", false);
    token.strips_left = flag("lstrip", false);
    token.strips_right = flag("rstrip", false);
    token.after_normalizer = flag("normalized", !token.special);
    token.single_word = flag("single_word", false);
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
    refuse_tokenizer(where, ": the type ", type,
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
    if (text_seen) {
      refuse_tokenizer(where, " puts ", name, " behind each text, which is not supported");
    }
    const json& entry = json_at(json_at(processor, "special_tokens", where), name, where);
    const json& ids = json_at(entry, "ids", where);
    if (!ids.is_array()) fail(where, ": \"ids\" of ", name, " must be a list");
    for (const json& id : ids) {
      prefix.push_back(static_cast<int32_t>(json_int(id, "ids", where, 0, max_token_id)));
    }
  }
  return prefix;
}

/// -1 for a content that no token has.
int32_t id_of(const BpeParts& parts, const std::string& content) {
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

/// Takes the tokens that the files beside the vocabulary list.
void add_companions(const fs::path& folder, BpeParts* parts) {
  const std::vector<ListedToken> listed = read_listed_tokens(folder);
  if (listed.empty()) return;
  std::unordered_map<std::string_view, int32_t> ids(parts->vocabulary.begin(),
                                                    parts->vocabulary.end());
  const auto in_vocabulary = [&](const std::string& content) {
    const auto at = ids.find(content);
    return at == ids.end() ? -1 : at->second;
  };
  const std::string changes =
      add_listed_tokens(listed, parts->path, static_cast<int32_t>(parts->vocabulary.size()),
                        in_vocabulary, &parts->added);
  if (!changes.empty()) parts->hash = hex(hash_bytes(changes, hash_bytes(parts->hash)));
}

BpeParts parts_of_tokenizer_json(const std::string& text, const std::string& what) {
  const json root = parse_json(text, what);
  const json& model = json_at(root, "model", what);
  const std::string model_what = what + ": \"model\"";
  BpeParts parts;
  parts.options = read_options(model, model_what);
  parts.path = what;
  parts.hash = hex(hash_bytes(text));
  parts.normalizer = Normalizer::from_json(json_find(root, "normalizer", what), what);
  parts.pre_tokenizer = PreTokenizer::from_json(json_find(root, "pre_tokenizer", what), what);
  parts.decoder = TokenDecoder::from_json(json_find(root, "decoder", what), what);
  parts.vocabulary = read_vocabulary(json_at(model, "vocab", model_what), model_what);
  parts.merges = read_merges(json_at(model, "merges", model_what), model_what);
  parts.added = read_added_tokens(json_find(root, "added_tokens", what), what);
  parts.prefix = read_prefix(json_find(root, "post_processor", what), what);
  return parts;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_json_from(const std::string& text, const std::string& name) {
  return make_bpe_tokenizer(parts_of_tokenizer_json(text, name));
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const fs::path& file) {
  BpeParts parts = parts_of_tokenizer_json(read_text_file(file, size_t{256} << 20), file.string());
  add_companions(file.parent_path(), &parts);
  const SpecialTokens special = read_special_tokens(file.parent_path());
  parts.bos_id = id_of(parts, special.bos);
  parts.eos_id = id_of(parts, special.eos);
  if (parts.bos_id < 0 && parts.prefix.size() == 1) parts.bos_id = parts.prefix[0];
  return make_bpe_tokenizer(std::move(parts));
}

VocabFamily vocab_family_of(const fs::path& folder) {
  const std::string model_type = read_model_type(folder);
  const std::string type = read_special_tokens(folder).tokenizer_class;
  const bool is_qwen = (model_type.starts_with("qwen2") || model_type.starts_with("qwen3")) &&
                       !model_type.starts_with("qwen3_5");
  // Many files of Qwen2 models name another class; transformers reads all of them as Qwen2's.
  if (model_type == "qwen2" || type == "Qwen2Tokenizer") return VocabFamily::qwen2;
  if (type == "GPT2Tokenizer" || type == "GPTNeoXTokenizer" || type == "CodeGenTokenizer") {
    return model_type == "opt" ? VocabFamily::opt : VocabFamily::gpt2;
  }
  const bool says_nothing =
      type.empty() || type == "PreTrainedTokenizer" || type == "TokenizersBackend";
  if (!says_nothing) {
    refuse_tokenizer(folder.string(), ": vocab.json and merges.txt of a ", type,
                     " are not supported, only of GPT2Tokenizer, GPTNeoXTokenizer, ",
                     "CodeGenTokenizer and Qwen2Tokenizer; use the model's tokenizer.json");
  }
  if (is_qwen) return VocabFamily::qwen2;
  if (model_type == "opt") return VocabFamily::opt;
  const char* others[] = {"", "gpt2", "gptj", "gpt_neo", "gpt_neox", "codegen", "phi", "bloom"};
  if (std::find(std::begin(others), std::end(others), model_type) == std::end(others)) {
    std::cerr << "warning: " << folder.string()
              << ": vocab.json and merges.txt are read as GPT-2's, "
              << "but the model is a " << model_type << " and tokenizer_config.json names no "
              << "\"tokenizer_class\"; the model's tokenizer.json would say how to read them"
              << std::endl;
  }
  return VocabFamily::gpt2;
}

std::unique_ptr<Tokenizer> load_vocab_and_merges(const fs::path& folder) {
  const fs::path vocab_file = folder / "vocab.json", merges_file = folder / "merges.txt";
  const std::string vocab = read_text_file(vocab_file, size_t{256} << 20);
  const std::string merges = read_text_file(merges_file, size_t{256} << 20);
  const VocabFamily family = vocab_family_of(folder);
  BpeParts parts;
  parts.path = folder.string();
  parts.hash = hex(hash_bytes(merges, hash_bytes(vocab)));
  parts.vocabulary = read_vocabulary(parse_json(vocab, vocab_file.string()), vocab_file.string());
  parts.merges = read_merges_file(merges_file, merges);
  parts.decoder = TokenDecoder::byte_level();
  SpecialTokens special = read_special_tokens(folder);
  const bool opt = special.add_bos < 0 && family == VocabFamily::opt;
  if (special.bos.empty() && special.eos.empty()) {
    special.bos = special.eos = opt ? "</s>" : "<|endoftext|>";
    if (family == VocabFamily::qwen2) special.bos = "";
    if (id_of(parts, special.eos) < 0 && !opt) special.bos = special.eos = "";
  }
  if (family == VocabFamily::qwen2) {
    parts.normalizer = Normalizer::nfc();
    parts.pre_tokenizer = PreTokenizer::qwen2(special.add_prefix_space);
  } else {
    parts.pre_tokenizer = PreTokenizer::gpt2(special.add_prefix_space);
  }
  if (!special.bos.empty() && id_of(parts, special.bos) < 0) {
    const std::vector<ListedToken> listed = read_listed_tokens(folder);
    const bool is_listed = std::any_of(listed.begin(), listed.end(), [&](const ListedToken& t) {
      return t.said_id >= 0 && t.token.content == special.bos;
    });
    if (!is_listed) {
      fail(vocab_file.string(), ": the special token ", special.bos,
           " is not in the vocabulary; use the model's tokenizer.json");
    }
  }
  // The hash below covers these; tokens that only the companions list change it further.
  for (const std::string& content : {special.bos, special.eos, special.unk, special.pad}) {
    const int32_t id = id_of(parts, content);
    const bool is_new = std::none_of(parts.added.begin(), parts.added.end(),
                                     [&](const AddedToken& a) { return a.id == id; });
    if (id >= 0 && is_new) parts.added.push_back({id, content, true});
  }
  std::string rules;
  const bool bos_in_front = special.add_bos == 1 || opt;
  const bool has_prefix = bos_in_front && id_of(parts, special.bos) >= 0;
  if (has_prefix || special.add_prefix_space) {
    rules = concat("prefix ", has_prefix ? 1 : 0, special.add_prefix_space);
  }
  if (family == VocabFamily::qwen2) rules += " qwen2";
  if (!rules.empty()) {  // other ids: another tokenizer
    parts.hash = hex(hash_bytes(rules, hash_bytes(merges, hash_bytes(vocab))));
  }
  add_companions(folder, &parts);
  parts.bos_id = id_of(parts, special.bos);
  parts.eos_id = id_of(parts, special.eos);
  if (bos_in_front && parts.bos_id >= 0) parts.prefix = {parts.bos_id};
  return make_bpe_tokenizer(std::move(parts));
}

}  // namespace cbq
