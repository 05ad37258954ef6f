#include "nn/text/tokenizers/bpe_tokenizer.h"

#include <algorithm>
#include <unordered_set>

#include "nn/formats/json.h"
#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "nn/text/tokenizers/unsupported.h"

namespace cbq {
namespace {

/// What each id stands for.
struct Token {
  std::string text;
  bool is_taken = false;
  bool is_special = false;
};

/// With the decoder ByteLevel tokens become bytes; those that are not written in the byte alphabet
/// stand for themselves.
std::vector<Token> tokens_by_id(const BpeParts& parts) {
  std::vector<Token> tokens;
  const auto at = [&](int32_t id, const std::string& content) -> Token& {
    if (id < 0 || id > max_token_id) {
      fail(parts.path, ": token ", content, " has the id ", id, ", outside [0, ", max_token_id,
           "]");
    }
    const auto i = static_cast<size_t>(id);
    if (i >= tokens.size()) tokens.resize(i + 1);
    return tokens[i];
  };
  const bool over_bytes = parts.decoder.is_byte_level();
  for (const auto& [content, id] : parts.vocabulary) {
    Token& token = at(id, content);
    if (token.is_taken) {
      fail(parts.path, ": two tokens have the id ", id, "; one of them is ", content);
    }
    token = {over_bytes ? bytes_of_token(content).value_or(content) : content, true, false};
  }
  for (const AddedToken& added : parts.added) {
    const std::string text =
        added.after_normalizer ? parts.normalizer(added.content) : added.content;
    at(added.id, added.content) = {text, true, added.special};
  }
  return tokens;
}

/// Largest id + 1 without added tokens.
int32_t text_vocab_size_of(const BpeParts& parts) {
  std::unordered_set<std::string_view> added;
  for (const AddedToken& token : parts.added) added.insert(token.content);
  int32_t size = 0;
  for (const auto& [content, id] : parts.vocabulary) {
    if (!added.contains(content)) size = std::max(size, id + 1);
  }
  return size;
}

Bpe make_bpe(const BpeParts& parts) {
  const bool over_bytes = parts.pre_tokenizer.has_byte_level() || parts.normalizer.has_byte_level();
  // Such words would lose their spaces and much else without a word.
  if (!over_bytes && parts.decoder.is_byte_level() && !parts.options.unknown &&
      !parts.options.byte_fallback) {
    fail(parts.path, ": the decoder is ByteLevel, but neither \"pre_tokenizer\" nor ",
         "\"normalizer\" has a ByteLevel: without it this is no byte-level vocabulary");
  }
  for (size_t i = 0; over_bytes && i < parts.merges.size(); ++i) {
    const auto& [left, right] = parts.merges[i];
    if (bytes_of_token(left) && bytes_of_token(right)) continue;
    if (parts.options.byte_fallback || parts.options.unknown) continue;
    fail(parts.path, ": merge ", i, " (", left, " ", right,
         ") is not written in the byte alphabet: this is no byte-level vocabulary");
  }
  std::unordered_map<std::string, int32_t> vocabulary(parts.vocabulary.begin(),
                                                      parts.vocabulary.end());
  Bpe::Options options = parts.options;
  options.over_bytes = over_bytes && !options.unknown && !options.byte_fallback;
  return Bpe(std::move(vocabulary), parts.merges, std::move(options), parts.path);
}

/// Tokens that are looked for in the normalized text are normalized themselves.
AddedTokenFinder finder_of(const BpeParts& parts, bool after_normalizer) {
  std::vector<AddedToken> chosen;
  for (AddedToken token : parts.added) {
    if (token.after_normalizer != after_normalizer) continue;
    if (after_normalizer) token.content = parts.normalizer(token.content);
    chosen.push_back(std::move(token));
  }
  return AddedTokenFinder(std::move(chosen));
}

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeParts parts)
      : tokens_(tokens_by_id(parts)),
        text_vocab_size_(text_vocab_size_of(parts)),
        bpe_(make_bpe(parts)),
        before_(finder_of(parts, false)),
        after_(finder_of(parts, true)) {
    for (const int32_t id : parts.prefix) {
      if (id >= 0 && static_cast<size_t>(id) < tokens_.size()) continue;
      fail(parts.path, ": \"post_processor\" puts the token ", id,
           " in front of a text, but the vocabulary does not have it");
    }
    parts.vocabulary = {};
    parts.merges = {};
    parts_ = std::move(parts);
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    check(is_utf8(text), parts_.path, ": the text to encode is not UTF-8; convert it first");
    std::vector<int32_t> ids;
    Cache cache;
    for (const auto& part : before_.split(text)) {
      if (part.token) {
        ids.push_back(part.token->id);
        continue;
      }
      const bool begins_text = part.text.data() == text.data();
      const std::string normalized = parts_.normalizer(part.text);
      for (const auto& inner : after_.split(normalized)) {
        if (inner.token) {
          ids.push_back(inner.token->id);
        } else {
          const bool is_first = begins_text && inner.text.data() == normalized.data();
          encode_words(parts_.pre_tokenizer.split(std::string(inner.text), is_first), &cache, &ids);
        }
      }
    }
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::vector<std::string> tokens;
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab_size(), parts_.path, ": cannot decode token id ", ids[i],
            " at position ", i, ": the vocabulary has ", vocab_size(), " tokens");
      const Token& token = tokens_[static_cast<size_t>(ids[i])];
      if (token.is_special) continue;
      if (parts_.decoder.is_byte_level()) {
        text += token.text;
      } else {
        tokens.push_back(token.text);
      }
    }
    return parts_.decoder.is_byte_level() ? text : parts_.decoder(std::move(tokens));
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t text_vocab_size() const override { return text_vocab_size_; }
  int32_t bos_id() const override { return parts_.bos_id; }
  int32_t eos_id() const override { return parts_.eos_id; }
  std::vector<int32_t> prefix() const override { return parts_.prefix; }
  std::string hash() const override { return parts_.hash; }

 private:
  /// Where the ids of a word lie in what has been written for this text already: most words of a
  /// text come again.
  using Cache = std::unordered_map<std::string, std::pair<size_t, size_t>>;
  static constexpr size_t longest_cached = 256;  // bytes; longer words hardly come again

  void encode_words(const Words& words, Cache* cache, std::vector<int32_t>* ids) const {
    for (const Span& span : words.spans) {
      const auto word = std::string_view(words.text).substr(span.begin, span.end - span.begin);
      if (word.size() > longest_cached) {
        bpe_.encode(word, ids);
        continue;
      }
      const auto [at, is_new] = cache->try_emplace(std::string(word), ids->size(), 0);
      if (is_new) {
        bpe_.encode(word, ids);
        at->second.second = ids->size();
        continue;
      }
      const auto [begin, end] = at->second;
      for (size_t i = begin; i < end; ++i) ids->push_back((*ids)[i]);
    }
  }

  std::vector<Token> tokens_;
  int32_t text_vocab_size_;
  Bpe bpe_;
  AddedTokenFinder before_, after_;
  BpeParts parts_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeParts parts) {
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

}  // namespace cbq
