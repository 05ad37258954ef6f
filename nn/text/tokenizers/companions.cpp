#include "nn/text/tokenizers/companions.h"

#include <algorithm>
#include <iostream>
#include <map>
#include <set>

#include "nn/formats/json.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq {
namespace {

using nlohmann::json;

/// Null where the file is not there.
json read_if_there(const fs::path& file) {
  std::error_code error;
  return fs::exists(file, error) ? read_json_file(file) : json();
}

/// "bos_token": null, "</s>" or {"content": "</s>", ...}.
std::string content_of(const json& token, const std::string& key, const std::string& what) {
  if (token.is_null()) return "";
  if (token.is_string()) return token.get<std::string>();
  return json_string(json_at(token, "content", what + ": \"" + key + "\""), "content", what);
}

/// A token as a string, which is special, or as an object with its flags.
AddedToken token_of(const json& entry, const std::string& key, const std::string& what,
                    bool is_special) {
  AddedToken token;
  token.content = content_of(entry, key, what);
  token.special = is_special;
  if (!entry.is_object()) return token;
  const auto flag = [&](const char* name, bool otherwise) {
    const json& value = json_find(entry, name, what);
    return value.is_null() ? otherwise : json_bool(value, name, what);
  };
  token.special = is_special || flag("special", false);
  token.strips_left = flag("lstrip", false);
  token.strips_right = flag("rstrip", false);
  token.single_word = flag("single_word", false);
  token.after_normalizer = flag("normalized", !token.special);
  return token;
}

/// Collects tokens, the first of each content.
class Listing {
 public:
  void add(AddedToken token, int64_t said_id = -1) {
    if (token.content.empty() || !seen_.insert(token.content).second) return;
    tokens_.push_back({std::move(token), said_id});
  }
  std::vector<ListedToken> take() { return std::move(tokens_); }

 private:
  std::set<std::string> seen_;
  std::vector<ListedToken> tokens_;
};

constexpr const char* named_tokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

/// Special tokens by name, then the lists of further ones.
void add_named_tokens(const json& root, const std::string& what, Listing* listing) {
  for (const char* key : named_tokens) {
    const json& entry = json_find(root, key, what);
    if (!entry.is_null()) listing->add(token_of(entry, key, what, true));
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const json& list = json_find(root, key, what);
    if (!list.is_array() && !list.is_object()) continue;  // an object: by name
    for (const json& entry : list) listing->add(token_of(entry, key, what, true));
  }
}

}  // namespace

SpecialTokens read_special_tokens(const fs::path& folder) {
  SpecialTokens special;
  // The first file wins where both name a token.
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string what = (folder / name).string();
    const json root = read_if_there(folder / name);
    if (root.is_null()) continue;
    special.is_given = true;
    const std::pair<const char*, std::string*> tokens[] = {{"bos_token", &special.bos},
                                                           {"eos_token", &special.eos},
                                                           {"unk_token", &special.unk},
                                                           {"pad_token", &special.pad}};
    for (const auto& [key, content] : tokens) {
      if (content->empty()) *content = content_of(json_find(root, key, what), key, what);
    }
    const json& add_bos = json_find(root, "add_bos_token", what);
    if (!add_bos.is_null()) special.add_bos = json_bool(add_bos, "add_bos_token", what) ? 1 : 0;
    const json& space = json_find(root, "add_prefix_space", what);
    if (!space.is_null()) {
      special.add_prefix_space = json_bool(space, "add_prefix_space", what);
      special.says_prefix_space = true;
    }
    const json& legacy = json_find(root, "legacy", what);
    if (legacy.is_boolean()) special.legacy = legacy.get<bool>();
    const json& type = json_find(root, "tokenizer_class", what);
    if (type.is_string() && special.tokenizer_class.empty()) {
      special.tokenizer_class = type.get<std::string>();
      if (special.tokenizer_class.ends_with("Fast")) {
        special.tokenizer_class.resize(special.tokenizer_class.size() - 4);
      }
    }
  }
  return special;
}

std::string read_model_type(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const json root = read_if_there(file);
  if (root.is_null()) return "";
  const json& type = json_find(root, "model_type", file.string());
  return type.is_string() ? type.get<std::string>() : "";
}

std::vector<ListedToken> read_listed_tokens(const fs::path& folder) {
  const std::string what = (folder / "tokenizer_config.json").string();
  const json config = read_if_there(folder / "tokenizer_config.json");
  const json& by_id = config.is_null() ? config : json_find(config, "added_tokens_decoder", what);
  Listing listing;
  std::map<int64_t, AddedToken> by_number;
  const json map = by_id.is_null() ? read_if_there(folder / "special_tokens_map.json") : json();
  const std::string map_name = (folder / "special_tokens_map.json").string();
  if (by_id.is_object()) {
    for (const auto& [key, entry] : by_id.items()) {
      const bool is_number = !key.empty() && key.size() < 10 &&
                             key.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number) {
        fail(what, ": \"added_tokens_decoder\" has the key \"", key, "\", which is no token id");
      }
      by_number[std::stoll(key)] = token_of(entry, key, what, false);
    }
  } else if (const fs::path file = folder / "added_tokens.json"; true) {
    Listing special;
    if (!config.is_null()) add_named_tokens(config, what, &special);
    if (!map.is_null()) add_named_tokens(map, map_name, &special);
    std::set<std::string> names;
    for (const ListedToken& listed : special.take()) names.insert(listed.token.content);
    const json tokens = read_if_there(file);
    if (!tokens.is_null() && !tokens.is_object()) {
      fail(file.string(), ": must be an object of ids");
    }
    for (const auto& [content, id] : tokens.items()) {
      AddedToken& token = by_number[json_int(id, content, file.string(), 0, max_token_id)];
      token.content = content;
      token.special = names.contains(content);
      token.after_normalizer = !token.special;
    }
  }
  for (auto& [id, token] : by_number) listing.add(std::move(token), id);
  if (!config.is_null()) add_named_tokens(config, what, &listing);
  if (!map.is_null()) add_named_tokens(map, map_name, &listing);
  return listing.take();
}

std::string add_listed_tokens(const std::vector<ListedToken>& listed, const std::string& what,
                              int32_t vocab_size,
                              const std::function<int32_t(const std::string&)>& id_of,
                              std::vector<AddedToken>* added) {
  std::string changes;
  for (const auto& [given, said_id] : listed) {
    AddedToken token = given;
    const auto there = std::find_if(added->begin(), added->end(), [&](const AddedToken& other) {
      return other.content == token.content;
    });
    if (there != added->end()) {
      token.id = there->id;
      const bool is_same =
          there->special == token.special && there->strips_left == token.strips_left &&
          there->strips_right == token.strips_right && there->single_word == token.single_word &&
          there->after_normalizer == token.after_normalizer;
      // Only a list of tokens says how they are found; a name alone says nothing new.
      if (is_same || said_id < 0) continue;
      *there = token;
    } else {
      token.id = id_of(token.content);
      if (token.id < 0) {
        token.id = vocab_size;
        for (const AddedToken& other : *added) token.id = std::max(token.id, other.id + 1);
        if (said_id >= 0 && said_id != token.id) {
          std::cerr << "warning: " << what << ": the token " << token.content << " takes the id "
                    << token.id << ", the next one, as in transformers; the file says " << said_id
                    << std::endl;
        }
      }
      added->push_back(token);
    }
    changes += concat(token.content, " ", token.id, token.special, token.strips_left,
                      token.strips_right, token.single_word, token.after_normalizer, "\n");
  }
  return changes;
}

}  // namespace cbq
