// What load_tokenizer() chooses from: one function per file format.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "nn/text/tokenizer.h"

namespace cbq {

/// Whether the bytes are a vocabulary of tiktoken: lines of a token in base 64 and its rank. Some
/// models have one under sentencepiece's name, tokenizer.model.
bool is_tiktoken(std::string_view bytes);

/// Whose rules vocab.json and merges.txt follow, which do not say it themselves.
enum class VocabFamily {
  gpt2,
  opt,   // GPT-2's words, "</s>" in front of each text
  qwen2  // words of its own, NFC
};
/// From "tokenizer_class" in tokenizer_config.json and "model_type" in config.json, as transformers
/// does; GPT-2's where neither says anything. Throws UnsupportedTokenizer for another class.
VocabFamily vocab_family_of(const std::filesystem::path& folder);

/// A sentencepiece model. "add_bos_token": false in tokenizer_config.json empties prefix(), and
/// "bos_token" and "eos_token" replace the tokens that the model names. Control tokens and the
/// tokens that the companions list are found in a text, as transformers does.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file);
/// The same of a file's bytes, with nothing beside it. `name` stands for the file in errors.
std::unique_ptr<Tokenizer> sentencepiece_from(const std::string& model, const std::string& name);
/// llama2.c's tokenizer.bin: u32 longest token, then per token f32 score, i32 length, bytes; BPE by
/// best score, i.e. a sentencepiece model without its settings.
std::unique_ptr<Tokenizer> load_llama2c(const std::filesystem::path& file);
/// The bytes of such a file as those of a sentencepiece model. `path` names the file in errors.
std::string llama2c_model(std::string_view bytes, const std::string& path);
/// tokenizer.json of the library `tokenizers`, with a BPE model.
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);
/// The same of a file's text, with nothing beside it. `name` stands for the file in errors.
std::unique_ptr<Tokenizer> tokenizer_json_from(const std::string& text, const std::string& name);
/// vocab.json and merges.txt of one folder (GPT-2, OPT, Qwen2).
std::unique_ptr<Tokenizer> load_vocab_and_merges(const std::filesystem::path& folder);

}  // namespace cbq
