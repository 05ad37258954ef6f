// Tokenizers with a BPE model: over bytes (GPT-2, OPT, BLOOM, LLaMA 3, Qwen, SmolLM2), or over
// characters with bytes for unknown ones (LLaMA 2, Mistral, Gemma).
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "nn/text/tokenizer.h"
#include "nn/text/tokenizers/added_tokens.h"
#include "nn/text/tokenizers/bpe.h"
#include "nn/text/tokenizers/decoder.h"
#include "nn/text/tokenizers/normalizer.h"
#include "nn/text/tokenizers/pre_tokenizer.h"

namespace cbq {

/// What a tokenizer is made of; the loaders fill it.
struct BpeParts {
  std::string path, hash;
  std::vector<std::pair<std::string, int32_t>> vocabulary;  // as written in the file
  std::vector<std::pair<std::string, std::string>> merges;  // as written, by rank
  std::vector<AddedToken> added;
  Bpe::Options options;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  std::vector<int32_t> prefix;
  int32_t bos_id = -1, eos_id = -1;
};

/// Throws std::runtime_error for parts that contradict each other.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts);

}  // namespace cbq
