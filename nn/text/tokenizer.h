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
  /// Ids of the text, without what the family puts around it (prefix()). Never encode a text in
  /// pieces: sentencepiece puts a space in front of each call's text, and merges cross the seams.
  /// Safe from several threads. Throws std::invalid_argument for a text it cannot read.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The text of ids; control tokens (BOS, EOS, ...) have none. Throws std::invalid_argument for an
  /// id outside the vocabulary.
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  /// Largest id + 1. A model's embedding may have more rows (padding). It may have fewer where
  /// special tokens were added that the model does not know: only ids that occur must fit.
  virtual int32_t vocab_size() const = 0;
  /// Largest id + 1 of the tokens that text is made of, without special and other added tokens.
  virtual int32_t text_vocab_size() const { return vocab_size(); }
  /// Ids of the tokens that begin and end a text; -1 where the vocabulary has none.
  virtual int32_t bos_id() const = 0;
  virtual int32_t eos_id() const = 0;
  /// What this model family was trained to see before a text: BOS for LLaMA, "</s>" for OPT,
  /// nothing for GPT-2, BLOOM and Qwen.
  virtual std::vector<int32_t> prefix() const = 0;
  /// 16 hexadecimal digits that change with the vocabulary; token files remember them.
  virtual std::string hash() const = 0;
};

/// Loads a tokenizer. `path` is a file, or a folder that is searched in this order:
///   tokenizer.json           BPE over bytes (GPT-2, OPT, BLOOM, LLaMA 3, Qwen, SmolLM2), or over
///                            characters with bytes for unknown ones (LLaMA 2, Mistral, Gemma)
///   tokenizer.model          sentencepiece (LLaMA 1 and 2)
///   vocab.json + merges.txt  byte-level BPE; the files beside it say of which family
///   tokenizer.bin            llama2.c's vocabulary with scores
/// A tokenizer.json that asks for something that is not implemented gives way to a sentencepiece
/// model beside it, with a warning on standard error. Special tokens, further added tokens and
/// prefix() follow tokenizer_config.json, special_tokens_map.json and added_tokens.json beside it.
/// Throws std::runtime_error for a missing or broken file, or one that asks for something that is
/// not implemented, naming it.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// The files that load_tokenizer(path) reads or may read, without the settings beside them; the
/// first one is preferred. Empty where there are none.
std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& path);

/// Copies these files and the settings beside them into `folder`, under the names that
/// load_tokenizer(folder) looks for. What vocab.json and merges.txt owe to the config.json beside
/// them is written into tokenizer_config.json.
void copy_tokenizer(const std::filesystem::path& path, const std::filesystem::path& folder);

/// Throws std::invalid_argument when text is made of tokens that a model with `vocab_size`
/// embeddings does not have: the tokenizer is another model's. Special tokens beyond the embeddings
/// are none of these. `what` names the tokenizer.
void check_tokenizer_fits(const Tokenizer& tokenizer, int64_t vocab_size, const std::string& what);

}  // namespace cbq
