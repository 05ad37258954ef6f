// The files beside a vocabulary that say more about its tokens, as transformers reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nn/text/tokenizers/added_tokens.h"

namespace cbq {

/// tokenizer_config.json, else special_tokens_map.json, beside a vocabulary.
struct SpecialTokens {
  std::string bos, eos, unk, pad;  // contents; empty: not named
  bool is_given = false;           // one of the files is there
  int add_bos = -1;                // "add_bos_token": 0, 1; -1: not said
  bool add_prefix_space = false;
  bool says_prefix_space = false;  // "add_prefix_space" is there
  bool legacy = false;             // LLaMA: every part between special tokens begins with a space
  std::string tokenizer_class;     // without "Fast"; empty: not named
};
/// Throws std::runtime_error when a file is broken.
SpecialTokens read_special_tokens(const std::filesystem::path& folder);

/// "model_type" of the model's config.json in `folder`; empty without one.
std::string read_model_type(const std::filesystem::path& folder);

/// A token that a companion lists, with the id that it is said to have (-1: none is said).
struct ListedToken {
  AddedToken token;
  int64_t said_id = -1;
};
/// "added_tokens_decoder" of tokenizer_config.json, else added_tokens.json, by their ids; then the
/// special tokens that tokenizer_config.json and (without "added_tokens_decoder")
/// special_tokens_map.json name. Throws std::runtime_error when a file is broken.
std::vector<ListedToken> read_listed_tokens(const std::filesystem::path& folder);

/// Adds the tokens to `added` as the library does: one that is there keeps its id and takes the new
/// flags; one that `id_of` finds in the vocabulary (-1: not there) takes that id; a new one takes
/// the next id, whatever id the file says (a difference is a warning on standard error).
/// `vocab_size`: number of tokens in the vocabulary. Returns a text that names every change; empty:
/// none.
std::string add_listed_tokens(const std::vector<ListedToken>& listed, const std::string& what,
                              int32_t vocab_size,
                              const std::function<int32_t(const std::string&)>& id_of,
                              std::vector<AddedToken>* added);

}  // namespace cbq
