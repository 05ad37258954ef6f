#include "nn/tokenizers/bpe.h"

#include <queue>

#include "nn/tokenizers/byte_alphabet.h"
#include "tensor/error.h"

namespace cbq {
namespace {

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

/// For messages: bytes as vocabularies write them.
std::string written(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) text += token_of_byte(static_cast<unsigned char>(c));
  return text;
}

/// One symbol of a word, in a doubly linked list by index; id < 0: merged into its left neighbour.
struct Symbol {
  int32_t id;
  int32_t previous, next;  // -1: none
};

/// A pair that can be merged: the symbol at `position` and its right neighbour, into `id`.
struct Candidate {
  int32_t rank, position, id;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

Bpe::Bpe(std::unordered_map<std::string, int32_t> vocabulary,
         const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges,
         const std::string& what)
    : vocabulary_(std::move(vocabulary)), ignore_merges_(ignore_merges), what_(what) {
  byte_ids_.fill(-1);
  for (int b = 0; b < 256; ++b) {
    const auto at = vocabulary_.find(std::string(1, static_cast<char>(b)));
    if (at != vocabulary_.end()) byte_ids_[static_cast<size_t>(b)] = at->second;
  }
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto id = [&](const std::string& token) {
      const auto at = vocabulary_.find(token);
      if (at == vocabulary_.end()) {
        fail(what, ": merge ", rank, " (", written(left), " ", written(right), ") needs the token ",
             written(token), ", which the vocabulary does not have; are the vocabulary and the ",
             "merges of the same model?");
      }
      return at->second;
    };
    // One after the other, so that every compiler's message names the same missing token.
    const int32_t left_id = id(left), right_id = id(right);
    merges_[key_of(left_id, right_id)] = {static_cast<int32_t>(rank), id(left + right)};
  }
}

const Bpe::Merge* Bpe::merge_of(int32_t left, int32_t right) const {
  const auto at = merges_.find(key_of(left, right));
  return at == merges_.end() ? nullptr : &at->second;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    const auto at = vocabulary_.find(std::string(word));
    if (at != vocabulary_.end()) {
      ids->push_back(at->second);
      return;
    }
  }
  const auto count = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<size_t>(i)]);
    check(
        byte_ids_[byte] >= 0, what_, ": byte ", int{byte}, " (",
        [&] { return token_of_byte(byte); }, ") has no token in this vocabulary");
    symbols[static_cast<size_t>(i)] = {byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : -1};
  }
  const auto at = [&symbols](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto propose = [&](int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const Merge* merge = merge_of(at(left).id, at(at(left).next).id);
    if (merge) queue.push({merge->rank, left, merge->id});
  };
  for (int32_t i = 0; i + 1 < count; ++i) propose(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.position);
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = at(left.next);
    // The pair may have changed since it was queued; then the new pair is in the queue as well.
    const Merge* merge = merge_of(left.id, right.id);
    if (!merge || merge->id != best.id) continue;
    left.id = best.id;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.position;
    right.id = -1;
    propose(left.previous);
    propose(best.position);
  }
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = at(i).next) ids->push_back(at(i).id);
}

}  // namespace cbq
