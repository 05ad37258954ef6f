// What load_tokenizer() chooses from: one function per file format.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "nn/tokenizer.h"

namespace cbq {

/// tokenizer_config.json, else special_tokens_map.json, beside a vocabulary.
struct SpecialTokens {
  std::string bos, eos, unk, pad;  // contents; empty: not named
  bool is_given = false;           // one of the files is there
  int add_bos = -1;                // "add_bos_token": 0, 1; -1: not said
  bool add_prefix_space = false;
};
/// Throws std::runtime_error when a file is broken.
SpecialTokens read_special_tokens(const std::filesystem::path& folder);

/// A sentencepiece model. "add_bos_token": false in tokenizer_config.json empties prefix().
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file);
/// llama2.c's tokenizer.bin: u32 longest token, then per token f32 score, i32 length, bytes; BPE by
/// best score, i.e. a sentencepiece model without its settings.
std::unique_ptr<Tokenizer> load_llama2c(const std::filesystem::path& file);
/// tokenizer.json of the library `tokenizers`, with a byte-level BPE model.
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);
/// vocab.json and merges.txt of one folder (GPT-2, OPT).
std::unique_ptr<Tokenizer> load_vocab_and_merges(const std::filesystem::path& folder);

}  // namespace cbq
