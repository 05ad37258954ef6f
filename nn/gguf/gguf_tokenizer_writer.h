// A Hugging Face folder's tokenizer as fields of a GGUF file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nn/gguf/gguf_writer.h"

namespace cbq {

/// The fields "tokenizer.*" but for their prefix.
struct GgufTokenizer {
  std::string model;                // "llama": sentencepiece's BPE; "gpt2": BPE over bytes
  std::string pre;                  // the rule by which texts are divided into words
  std::vector<std::string> tokens;  // by id
  std::vector<float> scores;        // of sentencepiece
  std::vector<int32_t> types;       // PieceType
  std::vector<std::string> merges;  // of BPE over bytes
  int64_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  bool adds_bos = false, adds_space = false;
  std::string chat_template;
};

/// Reads the tokenizer that load_tokenizer(path) would read: tokenizer.model, tokenizer.bin,
/// tokenizer.json with BPE over bytes, or vocab.json with merges.txt. The list of tokens is filled
/// up to `vocab_size`, the rows of the embedding, with tokens that no text has.
/// Throws std::runtime_error, naming the file, for a missing or broken file, for more tokens than
/// `vocab_size`, and for a tokenizer that GGUF has no fields for.
GgufTokenizer read_gguf_tokenizer(const std::filesystem::path& path, int64_t vocab_size);

void write_gguf_tokenizer(const GgufTokenizer& tokenizer, GgufWriter& writer);

}  // namespace cbq
