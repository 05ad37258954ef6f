// The tokenizer's fields of a GGUF file, and the parts of tokenizer.json that do not depend on the
// kind of tokenizer.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "nn/gguf/gguf.h"
#include "nn/text/tokenizers/sentencepiece_model.h"

namespace cbq {

/// What the keys of these fields begin with.
inline const std::string gguf_tokenizer_prefix = "tokenizer.ggml.";

struct GgufVocabulary {
  std::vector<std::string> tokens;
  std::vector<PieceType> types;
  int64_t bos = -1, eos = -1, unk = -1, pad = -1, end_of_turn = -1;  // -1: none
};
/// Throws std::runtime_error, naming the file, for a missing or malformed field, a token that is
/// not UTF-8, an id without a token, and texts that end in a token of their own.
GgufVocabulary read_gguf_vocabulary(const GgufFile& file);

/// The token id in the field "tokenizer.ggml.`key`"; -1 where there is none. Old files have -1, as
/// an unsigned number, where there is none. Throws std::runtime_error for what is no id.
int64_t gguf_token_id(const GgufFile& file, const std::string& key);

/// "post_processor": a token in front of each text.
nlohmann::json bos_processor(const std::string& token, int64_t id);
/// "added_tokens": those that are looked for in a text before anything else.
nlohmann::json gguf_added_tokens(const GgufVocabulary& v);
/// "model" of a BPE tokenizer with the usual options.
nlohmann::json bpe_model(nlohmann::json vocabulary, nlohmann::json merges);

}  // namespace cbq
