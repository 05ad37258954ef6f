// Tokenizer: text <-> token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of the text, without BOS or EOS. Never encode a text in pieces: sentencepiece puts a
  /// space in front of each call's text, and merges cross the seams. Safe from several threads.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// Throws std::invalid_argument for an id outside the vocabulary.
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  virtual int32_t vocab_size() const = 0;
  /// Ids of the tokens that begin and end a text; -1 where the vocabulary has none.
  virtual int32_t bos_id() const = 0;
  virtual int32_t eos_id() const = 0;
  /// 16 hexadecimal digits that change with the vocabulary; token files remember them.
  virtual std::string hash() const = 0;
};

/// Loads a sentencepiece model (LLaMA 1 and 2): `path` is the model, or a folder with
/// tokenizer.model. Throws std::runtime_error for a missing or broken file, naming the remedy.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace cbq
