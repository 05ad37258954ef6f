#include "nn/text/tokenizers/bpe.h"

#include <fmt/format.h>

#include <iostream>
#include <queue>

#include "nn/formats/unicode.h"
#include "nn/text/tokenizers/byte_alphabet.h"
#include "tensor/error.h"

namespace cbq {
namespace {

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
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
         const std::vector<std::pair<std::string, std::string>>& merges, Options options,
         const std::string& what)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)), what_(what) {
  for (char32_t c = 0; c < short_ids_.size(); ++c) {
    std::string text;
    append_character(c, &text);
    short_ids_[c] = id_of(text);
  }
  for (int b = 0; b < 256; ++b) {
    byte_ids_[static_cast<size_t>(b)] = id_of(fmt::format("<0x{:02X}>", b));
  }
  if (options_.unknown) {
    unknown_id_ = id_of(*options_.unknown);
    if (unknown_id_ < 0) {
      fail(what, ": \"unk_token\" is ", *options_.unknown, ", which the vocabulary does not have");
    }
  }
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto id = [&](const std::string& token) {
      const int32_t found = id_of(token);
      if (found < 0) {
        fail(what, ": merge ", rank, " (", left, " ", right, ") needs the token ", token,
             ", which the vocabulary does not have; are the vocabulary and the merges of the same ",
             "model?");
      }
      return found;
    };
    // One after the other, so that every compiler's message names the same missing token.
    const int32_t left_id = id(left), right_id = id(right);
    const size_t shared = right.starts_with(options_.prefix) ? options_.prefix.size() : 0;
    merges_[key_of(left_id, right_id)] = {static_cast<int32_t>(rank),
                                          id(left + right.substr(shared))};
  }
}

int32_t Bpe::id_of(const std::string& token) const {
  const auto at = vocabulary_.find(token);
  return at == vocabulary_.end() ? -1 : at->second;
}

const Bpe::Merge* Bpe::merge_of(int32_t left, int32_t right) const {
  const auto at = merges_.find(key_of(left, right));
  return at == merges_.end() ? nullptr : &at->second;
}

int32_t Bpe::id_of_character(std::string_view character, bool is_first, bool is_last) const {
  const bool has_prefix = !is_first && !options_.prefix.empty();
  const bool has_suffix = is_last && !options_.suffix.empty();
  if (!has_prefix && !has_suffix && character.size() <= 2) {
    size_t at = 0;
    return short_ids_[next_character(character, &at)];
  }
  return id_of(
      concat(has_prefix ? options_.prefix : "", character, has_suffix ? options_.suffix : ""));
}

void Bpe::report_left_out(std::string_view character) const {
  if (options_.over_bytes) {
    const auto byte = bytes_of_token(character);
    if (byte && byte->size() == 1) {
      check(false, what_, ": byte ", int{static_cast<unsigned char>((*byte)[0])}, " (", character,
            ") has no token in this vocabulary");
    }
  }
  if (has_warned_.exchange(true)) return;
  std::cerr << "warning: " << what_ << ": the character " << character
            << " of a text has no token, and the vocabulary names no token for unknown characters: "
               "such characters are left out"
            << std::endl;
}

std::vector<int32_t> Bpe::characters_of(std::string_view word) const {
  std::vector<int32_t> ids;
  ids.reserve(word.size());
  bool unknown_waits = false;  // to be written in front of the next known character
  const auto write_unknown = [&] {
    if (unknown_waits) ids.push_back(unknown_id_);
    unknown_waits = false;
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t end = std::min(begin + character_size(word[begin]), word.size());
    std::string_view character = word.substr(begin, end - begin);
    const bool is_first = begin == 0, is_last = end == word.size();
    begin = end;
    const int32_t id = id_of_character(character, is_first, is_last);
    if (id >= 0) {
      write_unknown();
      ids.push_back(id);
      continue;
    }
    if (options_.byte_fallback) {
      const std::string bytes =
          concat(is_first ? "" : options_.prefix, character, is_last ? options_.suffix : "");
      bool all = true;
      for (const char b : bytes) all &= byte_ids_[static_cast<unsigned char>(b)] >= 0;
      if (all) {  // an unknown token that waits goes behind them, as the library has it
        for (const char b : bytes) ids.push_back(byte_ids_[static_cast<unsigned char>(b)]);
        continue;
      }
    }
    if (unknown_id_ < 0) {
      report_left_out(character);
    } else {
      if (!options_.fuse_unknown) write_unknown();
      unknown_waits = true;
    }
  }
  write_unknown();
  return ids;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    const int32_t id = id_of(std::string(word));
    if (id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  const std::vector<int32_t> characters = characters_of(word);
  const auto count = static_cast<int32_t>(characters.size());
  std::vector<Symbol> symbols(characters.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)] = {characters[static_cast<size_t>(i)], i - 1,
                                       i + 1 < count ? i + 1 : -1};
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
