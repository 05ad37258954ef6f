#include "nn/tokenizer.h"

#include <sentencepiece_processor.h>

#include "nn/atomic_file.h"
#include "nn/hash.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr size_t max_model_bytes = size_t{256} << 20;

class SentencepieceTokenizer : public Tokenizer {
 public:
  SentencepieceTokenizer(const std::string& model, const std::string& path)
      : path_(path), hash_(hex(hash_bytes(model))) {
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok() || processor_.GetPieceSize() <= 0) {
      fail(path, " is not a sentencepiece model (", status.ok() ? "no pieces" : status.ToString(),
           "); fetch it again");
    }
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
  std::string hash() const override { return hash_; }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  std::string path_;
  std::string hash_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path file = path;
  if (std::filesystem::is_directory(path, error)) {
    file = path / "tokenizer.model";
    if (!std::filesystem::exists(file, error)) {
      const bool has_json = std::filesystem::exists(path / "tokenizer.json", error);
      fail("no tokenizer.model in ", path.string(), has_json ? " (tokenizer.json is not read)" : "",
           "; copy the model's sentencepiece file there, or pass a file of token ids instead");
    }
  }
  return std::make_unique<SentencepieceTokenizer>(read_text_file(file, max_model_bytes),
                                                  file.string());
}

}  // namespace cbq
