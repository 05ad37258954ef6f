// A sentencepiece vocabulary in a GGUF file as a sentencepiece model and as a tokenizer.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nn/gguf/gguf_vocabulary.h"

namespace cbq {

/// The bytes of tokenizer.model. Throws std::runtime_error, naming the file, for missing scores, a
/// normalization of characters, and a vocabulary that does not have exactly one unknown token.
std::string sentencepiece_model(const GgufFile& file, const GgufVocabulary& v);

/// The same model for the library `tokenizers`; null where tokenizer.json cannot express a setting:
/// unused tokens, the removal of repeated spaces, user-defined tokens together with one space at
/// the start of the text, and two joined tokens of one score.
nlohmann::json sentencepiece_tokenizer_json(const GgufFile& file, const GgufVocabulary& v);

/// Whether both give the same ids for texts that are made of the vocabulary, above all those in
/// which the two libraries may join tokens in different orders. `what` names the file in errors.
bool is_same_tokenizer(const std::string& model, const std::string& tokenizer_json,
                       const GgufVocabulary& v, const std::string& what);

}  // namespace cbq
