// read_sentencepiece_model: the bytes of tokenizer.model, a protocol buffer
// (sentencepiece_model.proto), without its library, which does not tell all that is in it.
#include <cstring>

#include "nn/text/tokenizers/sentencepiece_model.h"
#include "tensor/error.h"

namespace cbq {
namespace {

/// The fields of a message, in order.
class Fields {
 public:
  Fields(std::string_view bytes, const std::string& what) : bytes_(bytes), what_(what) {}

  /// Moves to the next field; false behind the last one.
  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t key = varint();
    number_ = key >> 3;
    const uint64_t wire = key & 7;
    value_ = 0;
    text_ = {};
    if (wire == 0) {
      value_ = varint();
    } else if (wire == 1 || wire == 5) {
      text_ = take(wire == 1 ? 8 : 4);
    } else if (wire == 2) {
      text_ = take(varint());
    } else {
      refuse();
    }
    return true;
  }
  uint64_t number() const { return number_; }
  uint64_t value() const { return value_; }
  std::string_view text() const { return text_; }
  float real() const {
    float value = 0.0f;
    if (text_.size() != sizeof value) refuse();
    std::memcpy(&value, text_.data(), sizeof value);
    return value;
  }

 private:
  [[noreturn]] void refuse() const { fail(what_, " is not a sentencepiece model; fetch it again"); }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    refuse();
  }
  std::string_view take(uint64_t count) {
    if (count > bytes_.size()) refuse();
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

  std::string_view bytes_;
  const std::string& what_;
  uint64_t number_ = 0, value_ = 0;
  std::string_view text_;
};

SentencepiecePiece piece_of(std::string_view bytes, const std::string& what) {
  SentencepiecePiece piece;
  for (Fields fields(bytes, what); fields.next();) {
    if (fields.number() == 1) piece.text = fields.text();
    if (fields.number() == 2) piece.score = fields.real();
    if (fields.number() == 3) piece.type = static_cast<PieceType>(fields.value());
  }
  return piece;
}

}  // namespace

SentencepieceContents read_sentencepiece_model(std::string_view bytes, const std::string& what) {
  constexpr uint64_t bpe = 2;  // unigram is the default
  SentencepieceContents contents;
  contents.settings.byte_fallback = false;
  contents.settings.remove_extra_whitespaces = true;
  for (Fields fields(bytes, what); fields.next();) {
    if (fields.number() == 1) contents.pieces.push_back(piece_of(fields.text(), what));
    if (fields.number() == 2) {
      for (Fields trainer(fields.text(), what); trainer.next();) {
        if (trainer.number() == 3) contents.is_bpe = trainer.value() == bpe;
        if (trainer.number() == 35) contents.settings.byte_fallback = trainer.value() != 0;
        if (trainer.number() == 45) contents.unk = trainer.text();
        if (trainer.number() == 46) contents.bos = trainer.text();
        if (trainer.number() == 47) contents.eos = trainer.text();
        if (trainer.number() == 48) contents.pad = trainer.text();
      }
    }
    if (fields.number() == 3) {
      auto& settings = contents.settings;
      for (Fields normalizer(fields.text(), what); normalizer.next();) {
        if (normalizer.number() == 2) contents.normalizes = !normalizer.text().empty();
        if (normalizer.number() == 3) settings.add_dummy_prefix = normalizer.value() != 0;
        if (normalizer.number() == 4) settings.remove_extra_whitespaces = normalizer.value() != 0;
      }
    }
  }
  if (contents.pieces.empty()) fail(what, " is not a sentencepiece model: it has no pieces");
  return contents;
}

}  // namespace cbq
