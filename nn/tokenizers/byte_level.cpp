#include "nn/tokenizers/byte_level.h"

#include "nn/json.h"
#include "nn/tokenizers/byte_alphabet.h"
#include "tensor/error.h"

namespace cbq {
namespace {

constexpr int32_t max_id = 1 << 21;  // of a vocabulary; far more than any has, and no memory bomb

/// What each id decodes to. Tokens that are not written in the byte alphabet stand for themselves.
std::vector<std::string> texts_by_id(const ByteLevelParts& parts) {
  std::vector<std::string> texts;
  std::vector<bool> taken;
  const auto set = [&](int32_t id, const std::string& token, std::string text) {
    if (id < 0 || id >= max_id) {
      fail(parts.path, ": token ", token, " has the id ", id, ", outside [0, ", max_id, ")");
    }
    const auto i = static_cast<size_t>(id);
    if (i >= texts.size()) {
      texts.resize(i + 1);
      taken.resize(i + 1);
    }
    taken[i] = true;
    texts[i] = std::move(text);
  };
  for (const auto& [token, id] : parts.vocabulary) {
    if (id >= 0 && static_cast<size_t>(id) < taken.size() && taken[static_cast<size_t>(id)]) {
      fail(parts.path, ": two tokens have the id ", id, "; one of them is ", token);
    }
    set(id, token, bytes_of_token(token).value_or(token));
  }
  for (const AddedToken& added : parts.added) {
    set(added.id, added.content, added.special ? "" : added.content);
  }
  return texts;
}

Bpe make_bpe(const ByteLevelParts& parts) {
  std::unordered_map<std::string, int32_t> vocabulary;
  vocabulary.reserve(parts.vocabulary.size());
  for (const auto& [token, id] : parts.vocabulary) {
    if (auto bytes = bytes_of_token(token)) vocabulary.emplace(std::move(*bytes), id);
  }
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(parts.merges.size());
  for (const auto& [left, right] : parts.merges) {
    const auto a = bytes_of_token(left), b = bytes_of_token(right);
    if (!a || !b) {
      fail(parts.path, ": merge ", merges.size(), " (", left, " ", right,
           ") is not written in the byte alphabet: this is no byte-level vocabulary");
    }
    merges.emplace_back(*a, *b);
  }
  return Bpe(std::move(vocabulary), merges, parts.ignore_merges, parts.path);
}

AddedTokenFinder finder_of(const std::vector<AddedToken>& added, bool after_normalizer) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : added) {
    if (token.after_normalizer == after_normalizer) chosen.push_back(token);
  }
  return AddedTokenFinder(std::move(chosen));
}

class ByteLevelTokenizer : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(ByteLevelParts parts)
      : texts_(texts_by_id(parts)),
        bpe_(make_bpe(parts)),
        before_(finder_of(parts.added, false)),
        after_(finder_of(parts.added, true)) {
    for (const int32_t id : parts.prefix) {
      if (id >= 0 && static_cast<size_t>(id) < texts_.size()) continue;
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
    std::deque<std::string> storage;  // of strings that are not in `text`
    Cache cache;
    for (const auto& part : before_.split(text)) {
      if (part.token) {
        ids.push_back(part.token->id);
        continue;
      }
      std::string_view normalized = part.text;
      if (!parts_.normalizer.is_identity()) {
        normalized = storage.emplace_back(parts_.normalizer(part.text));
      }
      for (const auto& inner : after_.split(normalized)) {
        if (inner.token) {
          ids.push_back(inner.token->id);
        } else {
          encode_words(parts_.pre_tokenizer.split(inner.text, &storage), &cache, &ids);
        }
      }
    }
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab_size(), parts_.path, ": cannot decode token id ", ids[i],
            " at position ", i, ": the vocabulary has ", vocab_size(), " tokens");
      text += texts_[static_cast<size_t>(ids[i])];
    }
    return text;
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(texts_.size()); }
  int32_t bos_id() const override { return parts_.bos_id; }
  int32_t eos_id() const override { return parts_.eos_id; }
  std::vector<int32_t> prefix() const override { return parts_.prefix; }
  std::string hash() const override { return parts_.hash; }

 private:
  /// Where the ids of a word lie in what has been written for this text already: most words of a
  /// text come again.
  using Cache = std::unordered_map<std::string_view, std::pair<size_t, size_t>>;

  void encode_words(const std::vector<std::string_view>& words, Cache* cache,
                    std::vector<int32_t>* ids) const {
    for (const std::string_view word : words) {
      const auto [at, is_new] = cache->try_emplace(word, ids->size(), 0);
      if (is_new) {
        bpe_.encode(word, ids);
        at->second.second = ids->size();
        continue;
      }
      const auto [begin, end] = at->second;
      for (size_t i = begin; i < end; ++i) ids->push_back((*ids)[i]);
    }
  }

  std::vector<std::string> texts_;
  Bpe bpe_;
  AddedTokenFinder before_, after_;
  ByteLevelParts parts_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_level(ByteLevelParts parts) {
  return std::make_unique<ByteLevelTokenizer>(std::move(parts));
}

}  // namespace cbq
