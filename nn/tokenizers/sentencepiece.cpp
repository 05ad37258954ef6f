// Sentencepiece vocabularies (Kudo & Richardson 2018), read by its own library.
#include <sentencepiece_processor.h>

#include <bit>
#include <cstring>

#include "nn/atomic_file.h"
#include "nn/hash.h"
#include "nn/tokenizers/loaders.h"
#include "nn/tokenizers/sentencepiece_model.h"
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

// ---- llama2.c's file, rewritten as a sentencepiece model ----------------------------------------

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
  SentencepieceModel model;
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
    const std::string piece = piece_of(id, bytes.substr(0, static_cast<size_t>(length)), &type);
    model.add_piece(piece, score, type);
    bytes.remove_prefix(static_cast<size_t>(length));
  }
  if (id < 259) fail(path, " is not a vocabulary of llama2.c: ", id, " tokens, not even the bytes");
  return model.bytes({});
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
