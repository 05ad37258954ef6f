// The tokenizer in a GGUF file as the files of a Hugging Face folder.
#pragma once

#include <map>
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
///
/// `pre_tokenizer` replaces the name of the rule, "tokenizer.ggml.pre"; empty: as the file says.
/// Throws std::runtime_error, naming the file, for a missing or malformed field, a kind of
/// tokenizer that is not supported, and an unknown rule, with the list of known ones.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file,
                                                        const std::string& pre_tokenizer = "");

/// "gpt-2, llama-bpe, ...": the known rules of byte-level tokenizers.
std::string known_gguf_pre_tokenizers();

}  // namespace cbq
