// The tokenizer in a GGUF file as the files of a Hugging Face folder.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nn/gguf/gguf.h"

namespace cbq {

/// Files by name, with their contents:
///   tokenizer.json          byte-level BPE ("tokenizer.ggml.model" is "gpt2"): the vocabulary, the
///                           merges and the rule by which texts are divided into words
///   tokenizer.model         sentencepiece's BPE ("tokenizer.ggml.model" is "llama"). Where the
///                           library `tokenizers` can give the same ids, a tokenizer.json stands
///                           beside it, which load_tokenizer and other programs prefer
///   tokenizer_config.json   special tokens and the template of chats
///   generation_config.json  tokens that begin and end a text
/// None of them where the file has no vocabulary ("tokenizer.ggml.model" is "no_vocab").
///
/// `pre_tokenizer` replaces the name of the rule, "tokenizer.ggml.pre"; empty: as the file says.
/// Throws std::runtime_error, naming the file, for a missing or malformed field, a kind of
/// tokenizer that is not supported, and an unknown rule, with the list of known ones.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file,
                                                        const std::string& pre_tokenizer = "");

/// The name of the rule of a tokenizer.json with BPE over bytes; empty where none is the same.
std::string gguf_pre_tokenizer_of(const nlohmann::json& tokenizer);
/// "normalizer" and "pre_tokenizer" of a tokenizer.json with this rule, a known one.
nlohmann::json gguf_rule_json(const std::string& pre_tokenizer);

/// "gpt-2, llama-bpe, ...": the known rules of byte-level tokenizers.
std::string known_gguf_pre_tokenizers();

}  // namespace cbq
