// A sentencepiece model (Kudo & Richardson 2018) put together from its pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

/// Kinds of pieces, as the model file numbers them (GGUF numbers them alike).
enum class PieceType {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// Settings of a BPE model as LLaMA has it: text unchanged but for spaces.
struct SentencepieceSettings {
  int64_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;  // -1: none
  bool byte_fallback = true;                                // unknown characters become bytes
  bool add_dummy_prefix = true;                             // a space in front of each text
  bool remove_extra_whitespaces = false;
};

class SentencepieceModel {
 public:
  /// The next id. `piece` has U+2581 where it stands for a space.
  void add_piece(std::string_view piece, float score, PieceType type);
  /// The bytes of the file tokenizer.model (a protocol buffer, sentencepiece_model.proto). An id in
  /// `settings` without a piece counts as none.
  std::string bytes(const SentencepieceSettings& settings) const;

 private:
  std::string pieces_;
  std::vector<std::string> names_;
};

struct SentencepiecePiece {
  std::string text;
  float score = 0.0f;
  PieceType type = PieceType::normal;
};

/// What a file tokenizer.model holds.
struct SentencepieceContents {
  std::vector<SentencepiecePiece> pieces;  // by id
  bool is_bpe = false;                     // else unigram, word or character
  bool normalizes = false;                 // characters are replaced before anything else
  std::string unk = "<unk>", bos = "<s>", eos = "</s>", pad = "<pad>";  // pieces
  SentencepieceSettings settings;                                       // without the ids
};
/// The inverse of SentencepieceModel. `what` names the file in errors. Throws std::runtime_error
/// for bytes that are no such model.
SentencepieceContents read_sentencepiece_model(std::string_view bytes, const std::string& what);

/// The model with add_dummy_prefix off: it puts no space in front of a text.
std::string without_dummy_prefix(const std::string& model);

}  // namespace cbq
