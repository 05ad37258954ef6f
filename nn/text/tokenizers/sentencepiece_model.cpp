#include "nn/text/tokenizers/sentencepiece_model.h"

namespace cbq {
namespace {

/// The few encodings of protocol buffers that a sentencepiece model needs.
class Message {
 public:
  void add_int(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void add_float(uint32_t field, float value) {
    varint(field << 3 | 5);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void add_bytes(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

}  // namespace

void SentencepieceModel::add_piece(std::string_view piece, float score, PieceType type) {
  Message entry, model;
  entry.add_bytes(1, piece);
  entry.add_float(2, score);
  entry.add_int(3, static_cast<uint64_t>(type));
  model.add_bytes(1, entry.bytes());
  pieces_ += model.bytes();
  names_.emplace_back(piece);
}

std::string SentencepieceModel::bytes(const SentencepieceSettings& settings) const {
  Message trainer, normalizer, both;
  trainer.add_int(3, 2);  // model_type: BPE
  trainer.add_int(35, settings.byte_fallback ? 1 : 0);
  trainer.add_int(40, static_cast<uint64_t>(settings.unk_id));
  trainer.add_int(41, static_cast<uint64_t>(settings.bos_id));
  trainer.add_int(42, static_cast<uint64_t>(settings.eos_id));
  trainer.add_int(43, static_cast<uint64_t>(settings.pad_id));
  // The library ignores the ids above and looks for the names of the pieces, which have defaults.
  const auto add_name = [&](uint32_t field, int64_t id, std::string_view usual) {
    if (id < 0 || id >= static_cast<int64_t>(names_.size())) return;
    const std::string& name = names_[static_cast<size_t>(id)];
    if (name != usual) trainer.add_bytes(field, name);
  };
  add_name(45, settings.unk_id, "<unk>");
  add_name(46, settings.bos_id, "<s>");
  add_name(47, settings.eos_id, "</s>");
  add_name(48, settings.pad_id, "<pad>");
  normalizer.add_bytes(1, "identity");
  normalizer.add_int(3, settings.add_dummy_prefix ? 1 : 0);
  normalizer.add_int(4, settings.remove_extra_whitespaces ? 1 : 0);
  normalizer.add_int(5, 1);  // escape_whitespaces
  both.add_bytes(2, trainer.bytes());
  both.add_bytes(3, normalizer.bytes());
  return pieces_ + both.bytes();
}

// Fields of a protocol buffer that come again override the earlier ones.
std::string without_dummy_prefix(const std::string& model) {
  Message normalizer, overriding;
  normalizer.add_int(3, 0);
  overriding.add_bytes(3, normalizer.bytes());
  return model + overriding.bytes();
}

}  // namespace cbq
