// Sentencepiece vocabularies (Kudo & Richardson 2018), read by its own library.
#include <sentencepiece_processor.h>

#include <bit>
#include <cstring>

#include "nn/atomic_file.h"
#include "nn/hash.h"
#include "nn/tokenizers/loaders.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t max_model_bytes = size_t{256} << 20;

class SentencepieceTokenizer : public Tokenizer {
 public:
  SentencepieceTokenizer(const std::string& model, const std::string& path, bool add_bos)
      : path_(path), hash_(hex(hash_bytes(model))), add_bos_(add_bos) {
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok() || processor_.GetPieceSize() <= 0) {
      fail(path, " is not a sentencepiece model (", status.ok() ? "no pieces" : status.ToString(),
           "); fetch it again");
    }
    if (!add_bos_) hash_ = hex(hash_bytes("without bos", hash_bytes(model)));  // other ids
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode({text.data(), text.size()}, &ids);
    if (!status.ok()) fail(path_, ": cannot encode a text: ", status.ToString());
    return {ids.begin(), ids.end()};
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab_size(), path_, ": cannot decode token id ", ids[i],
            " at position ", i, ": the vocabulary has ", vocab_size(), " tokens");
    }
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    if (!status.ok()) fail(path_, ": cannot decode: ", status.ToString());
    return text;
  }

  int32_t vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t bos_id() const override { return processor_.bos_id(); }
  int32_t eos_id() const override { return processor_.eos_id(); }
  std::vector<int32_t> prefix() const override {
    if (!add_bos_ || bos_id() < 0) return {};
    return {bos_id()};
  }
  std::string hash() const override { return hash_; }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  std::string path_;
  std::string hash_;
  bool add_bos_;
};

// ---- llama2.c's file, rewritten as the protocol buffer that the library reads
// ---------------------

enum class PieceType { normal = 1, unknown = 2, control = 3, byte = 6 };

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

/// Settings of LLaMA's models: BPE, bytes for unknown characters, a space in front, text unchanged.
std::string settings_of_llama() {
  Message trainer, normalizer, both;
  trainer.add_int(3, 2);              // model_type: BPE
  trainer.add_int(35, 1);             // byte_fallback
  trainer.add_int(40, 0);             // unk_id
  trainer.add_int(41, 1);             // bos_id
  trainer.add_int(42, 2);             // eos_id
  trainer.add_int(43, ~uint64_t{0});  // pad_id: -1, none
  normalizer.add_bytes(1, "identity");
  normalizer.add_int(3, 1);  // add_dummy_prefix
  normalizer.add_int(4, 0);  // remove_extra_whitespaces
  normalizer.add_int(5, 1);  // escape_whitespaces
  both.add_bytes(2, trainer.bytes());
  both.add_bytes(3, normalizer.bytes());
  return both.bytes();
}

std::string piece_of(size_t id, std::string_view token, PieceType* type) {
  constexpr const char* first_three[] = {"<unk>", "<s>", "</s>"};
  *type = id == 0 ? PieceType::unknown : id < 3 ? PieceType::control : PieceType::normal;
  if (id < 3) return first_three[id];
  if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) {
    *type = PieceType::byte;
  }
  std::string piece;
  for (const char c : token) piece += c == ' ' ? std::string("\u2581") : std::string(1, c);
  return piece;
}

template <class T>
T take(std::string_view* bytes, const std::string& path, size_t id) {
  if (bytes->size() < sizeof(T)) {
    fail(path, " is not a vocabulary of llama2.c: it ends within token ", id);
  }
  T value;
  std::memcpy(&value, bytes->data(), sizeof(T));
  bytes->remove_prefix(sizeof(T));
  return value;
}

std::string model_of_llama2c(std::string_view bytes, const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  const auto longest = take<uint32_t>(&bytes, path, 0);
  Message model;
  size_t id = 0;
  for (; !bytes.empty(); ++id) {
    const auto score = take<float>(&bytes, path, id);
    const auto length = take<int32_t>(&bytes, path, id);
    if (length < 0 || static_cast<uint32_t>(length) > longest ||
        static_cast<size_t>(length) > bytes.size()) {
      fail(path, " is not a vocabulary of llama2.c: token ", id, " is said to have ", length,
           " bytes, the longest ", longest);
    }
    PieceType type{};
    Message piece;
    piece.add_bytes(1, piece_of(id, bytes.substr(0, static_cast<size_t>(length)), &type));
    piece.add_float(2, score);
    piece.add_int(3, static_cast<uint64_t>(type));
    model.add_bytes(1, piece.bytes());
    bytes.remove_prefix(static_cast<size_t>(length));
  }
  if (id < 259) fail(path, " is not a vocabulary of llama2.c: ", id, " tokens, not even the bytes");
  return model.bytes() + settings_of_llama();
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file) {
  const std::string model = read_text_file(file, max_model_bytes);
  const bool add_bos = read_special_tokens(file.parent_path()).add_bos != 0;
  return std::make_unique<SentencepieceTokenizer>(model, file.string(), add_bos);
}

std::unique_ptr<Tokenizer> load_llama2c(const std::filesystem::path& file) {
  const std::string model = model_of_llama2c(read_text_file(file, max_model_bytes), file.string());
  return std::make_unique<SentencepieceTokenizer>(model, file.string(), true);
}

}  // namespace cbq
